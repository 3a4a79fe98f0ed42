//go:build !race

package vhdx

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// TestMaintainDifferencing writes to differencing disks, compacts and grows them,
// next to a model. The parent is larger than the child is at first.
func TestMaintainDifferencing(t *testing.T) {
	seed := seedOf(t)
	for _, sector := range []int{512, 4096} {
		for _, start := range []int64{5*mib + 8192, 6 * mib} {
			t.Run(fmt.Sprintf("sector %d, %d bytes", sector, start), func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, uint64(start)+uint64(sector)))
				const parentSize = 12*mib + 4096
				base := make([]byte, parentSize)
				for i := 0; i < len(base); i += 4096 {
					if (i/mib)%4 != 3 { // a quarter is zero
						pattern(base[i:i+4096], rnd.Uint64())
					}
				}
				pf := block.NewMemFile(0)
				p, err := Create(noClose{pf}, CreateOptions{Size: parentSize, BlockSize: mib, LogicalSectorSize: sector})
				must(t, err)
				must(t, p.WriteAt(ctx, base, 0, 0))
				must(t, p.Close())
				parent := func() block.Device {
					p, err := Open(noClose{pf}, OpenOptions{ReadOnly: true})
					must(t, err)
					return p
				}
				link := ParentLink{Linkage: p.Info().DataWriteGUID, Relative: "p.vhdx"}
				f := block.NewMemFile(0)
				d, err := Create(noClose{f}, CreateOptions{Size: start, BlockSize: mib, LogicalSectorSize: sector,
					Parent: &link, ParentDevice: parent()})
				must(t, err)
				want := bytes.Clone(base[:start])
				same := func() {
					t.Helper()
					got := make([]byte, len(want))
					must(t, d.ReadAt(ctx, got, 0))
					if i := firstDifference(got, want); i >= 0 {
						t.Fatalf("disk offset %#x of %#x differs", i, len(want))
					}
				}
				for i := range 60 {
					off := rnd.Int64N(int64(len(want)))
					n := min(int64(len(want))-off, 1+rnd.Int64N(3*mib))
					switch rnd.IntN(7) {
					case 0:
						must(t, d.WriteZeroes(ctx, off, n, 0))
						clear(want[off : off+n])
					case 1: // what the parent has there
						must(t, d.WriteAt(ctx, make([]byte, n), off, 0))
						clear(want[off : off+n])
					case 2:
						_, err := d.Compact(ctx, CompactOptions{}, nil)
						must(t, err)
					case 3:
						if i%3 != 0 {
							break
						}
						size := d.Size() + rnd.Int64N(4*mib)/4096*4096
						must(t, d.Resize(ctx, size))
						want = append(want, make([]byte, size-int64(len(want)))...)
					case 4:
						must(t, d.Close())
						clean(t, f)
						d, err = Open(noClose{f}, OpenOptions{Parent: parent()})
						must(t, err)
					default:
						n = min(n, 20000)
						p := make([]byte, n)
						for k := range p {
							p[k] = byte(i + 1)
						}
						must(t, d.WriteAt(ctx, p, off, 0))
						copy(want[off:], p)
					}
					same()
				}
				if err := d.Resize(ctx, mib); !errors.Is(err, ErrUnsupported) {
					t.Errorf("shrink: %v", err)
				}
				// All zeroes: no room is needed, not for bitmaps either.
				must(t, d.WriteAt(ctx, make([]byte, len(want)), 0, 0))
				clear(want)
				_, err = d.Compact(ctx, CompactOptions{}, nil)
				must(t, err)
				same()
				must(t, d.Close())
				clean(t, f)
				if size, _ := f.Size(); size != 4*mib {
					t.Errorf("a file of zeroes has %d bytes", size)
				}
			})
		}
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}
