//go:build !race

package smbstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"lunless/smbstore/block"
)

// TestMergeStops: a merge that is cancelled, or whose store fails at any
// operation, leaves a chain with its content, and a second run finishes it.
func TestMergeStops(t *testing.T) {
	for _, format := range chainFormats {
		for seed := range uint64(25) {
			s := newPowerStore()
			n := suffixed(format, "base", "mid", "leaf")
			chain := newChain(t, s, seed, format, n...)
			ctx, cancel := context.WithCancel(t.Context())
			var ops atomic.Int64
			last := int64(seed * 5)
			s.supply.Watch(func(block.OpKind) {
				if ops.Add(1) == last {
					cancel()
				}
			})
			o := MergeOptions{Children: []Location{s.Location().Join(n[2])}}
			_, err := MergeDisk(ctx, s, n[1], o)
			cancel()
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatalf("%s, seed %d: %v", format, seed, err)
			}
			checkDisk(t, s, n[2], chain.want)
			if s.at(n[1]) != nil {
				images, err := InspectChain(t.Context(), s, n[2])
				mustDo(t, err)
				if len(images) == 3 {
					if _, err := MergeDisk(t.Context(), s, n[1], o); err != nil {
						t.Fatalf("%s, seed %d, again: %v", format, seed, err)
					}
				}
			}
			checkDisk(t, s, n[2], chain.want)
		}
	}
}

// TestMergePowerCut: whenever power fails in a merge, the chain opens with its
// content, and a second run finishes it.
func TestMergePowerCut(t *testing.T) {
	for _, format := range chainFormats {
		for _, middle := range []bool{false, true} {
			for seed := range uint64(6) {
				if err := mergePowerCut(t, format, middle, seed); err != nil {
					t.Fatalf("%s, middle %v, seed %d: %v", format, middle, seed, err)
				}
			}
		}
	}
}

func mergePowerCut(t *testing.T, format Format, middle bool, seed uint64) error {
	s := newPowerStore()
	n := suffixed(format, "base", "mid", "leaf")
	chain := newChain(t, s, seed, format, n...)
	mustDo(t, s.SyncDir(""))
	merged, o, survivor := n[2], MergeOptions{}, n[1]
	if middle {
		merged, o, survivor = n[1], MergeOptions{Children: []Location{s.Location().Join(n[2])}}, n[2]
	}
	rnd := rand.New(rand.NewPCG(seed, 11))
	var cuts []*powerStore
	var ops int
	busy := make(chan struct{}, 1) // the watcher may be called concurrently
	s.supply.Watch(func(block.OpKind) {
		busy <- struct{}{}
		if ops++; rnd.IntN(8) == 0 {
			cuts = append(cuts, s.Cut(rnd))
		}
		<-busy
	})
	if _, err := MergeDisk(t.Context(), s, merged, o); err != nil {
		return err
	}
	cuts = append(cuts, s.Cut(rnd))
	for i, cut := range cuts {
		leaf := survivor
		if cut.at(n[2]) != nil {
			leaf = n[2]
		}
		if err := diskReads(t.Context(), cut, leaf, chain.want); err != nil {
			return fmt.Errorf("cut %d of %d: %s: %w", i, len(cuts), leaf, err)
		}
		if images, err := InspectChain(t.Context(), cut, leaf); err != nil || len(images) < 3 {
			continue
		}
		if _, err := MergeDisk(t.Context(), cut, merged, o); err != nil {
			return fmt.Errorf("cut %d, again: %w", i, err)
		}
		if err := diskReads(t.Context(), cut, survivor, chain.want); err != nil {
			return fmt.Errorf("cut %d, again: %w", i, err)
		}
	}
	if ops < 10 {
		return fmt.Errorf("only %d changes seen", ops)
	}
	return nil
}

// TestRebasePowerCut: whenever it ends, the disk has its content.
func TestRebasePowerCut(t *testing.T) {
	for _, format := range chainFormats {
		for seed := range uint64(6) {
			s, c := rebaseStore(t, seed, format, testDiskSize)
			rnd := rand.New(rand.NewPCG(seed, 12))
			var cuts []*powerStore
			busy := make(chan struct{}, 1)
			var ops atomic.Int64
			ctx, cancel := context.WithCancel(t.Context())
			s.supply.Watch(func(block.OpKind) {
				busy <- struct{}{}
				if rnd.IntN(4) == 0 {
					cuts = append(cuts, s.Cut(rnd))
				}
				if ops.Add(1) == 40 && seed%2 == 1 {
					cancel()
				}
				<-busy
			})
			_, err := RebaseDisk(ctx, s, "child", RebaseOptions{Parent: s.Location().Join("new")})
			cancel()
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			for i, cut := range append(cuts, s.Cut(rnd)) {
				if err := diskReads(t.Context(), cut, "child", c.want); err != nil {
					t.Fatalf("%s, seed %d, cut %d: %v", format, seed, i, err)
				}
			}
		}
	}
}
