package smbstore

import (
	"testing"

	"lunless/smbstore/block"
)

// A process that is killed after every write has been committed where the device
// asked for it leaves all that it wrote.
func TestUncommittedIsWhatAKillLoses(t *testing.T) {
	for _, format := range []Format{VHDX, VHD} {
		t.Run(string(format), func(t *testing.T) {
			ctx, s := t.Context(), localStoreFor(t)
			for _, name := range []string{"disk", "base", "leaf"} {
				o := CreateDiskOptions{Format: format, Size: 64 << 20}
				if name == "leaf" {
					o = CreateDiskOptions{Parent: s.Location().Join("base." + string(format))}
				}
				d, err := CreateDisk(ctx, s, name+"."+string(format), o)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{"disk." + string(format), "leaf." + string(format)} {
				killed, err := OpenChain(ctx, s, name, DiskOptions{})
				if err != nil {
					t.Fatal(err)
				}
				disk, asked := killed.Disk(), 0
				p := make([]byte, 4096)
				for i := range int64(40) {
					p[0] = byte(i + 1)
					if err := disk.WriteAt(ctx, p, i*1536<<10, 0); err != nil {
						t.Fatal(err)
					}
					if block.Uncommitted(disk) {
						asked++
						if err := disk.Flush(ctx); err != nil {
							t.Fatal(err)
						}
					}
				}
				if block.Uncommitted(disk) || asked == 0 {
					t.Errorf("%s: uncommitted after a flush: %v, of 40 writes %d", name, block.Uncommitted(disk), asked)
				}
				if err := disk.WriteAt(ctx, p, 39*1536<<10, 0); err != nil || block.Uncommitted(disk) {
					t.Errorf("%s: a write to what has room: %v, uncommitted %v", name, err, block.Uncommitted(disk))
				}
				again, err := OpenChain(ctx, s, name, DiskOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for i := range int64(40) {
					if err := again.Disk().ReadAt(ctx, p, i*1536<<10); err != nil || p[0] != byte(i+1) {
						t.Fatalf("%s: write %d is gone: %d, %v", name, i, p[0], err)
					}
				}
				again.Close()  //nolint:errcheck // two of one disk: only read
				killed.Close() //nolint:errcheck // as above
			}
		})
	}
}
