// Package bench drives block devices the way virtual machines do and reports
// what that cost: operations, bandwidth, latency, and CPU on both sides. Every
// figure the project quotes comes from here.
package bench

import (
	"fmt"
	"strings"
)

// Workload is one pattern of I/O.
type Workload struct {
	Name        string `json:"name"`
	BlockSize   int    `json:"block_size"`   // bytes a request
	ReadPercent int    `json:"read_percent"` // 100 reads only, 0 writes only
	Random      bool   `json:"random"`       // else one walk from the start, over and over
	Depth       int    `json:"depth"`        // requests in flight
	What        string `json:"-"`
}

// Workloads is what `bench run --workload` knows, by name.
var Workloads = []Workload{
	{"randread-4k", 4 << 10, 100, true, 16, "random reads of 4 KiB: a guest's page-ins"},
	{"randwrite-4k", 4 << 10, 0, true, 16, "random writes of 4 KiB: a database's pages"},
	{"randrw-4k", 4 << 10, 70, true, 16, "70% reads, 30% writes of 4 KiB: a busy server"},
	{"randread-8k", 8 << 10, 100, true, 16, "random reads of 8 KiB"},
	{"randwrite-8k", 8 << 10, 0, true, 16, "random writes of 8 KiB"},
	{"randrw-8k", 8 << 10, 70, true, 16, "70% reads, 30% writes of 8 KiB"},
	{"randrw-64k", 64 << 10, 50, true, 8, "half reads, half writes of 64 KiB: file serving"},
	{"seqread-1m", 1 << 20, 100, false, 8, "sequential reads of 1 MiB: backup, migration's source"},
	{"seqwrite-1m", 1 << 20, 0, false, 8, "sequential writes of 1 MiB: restore, migration's destination"},
}

// FindWorkload returns the workload of that name; the error lists those there are.
func FindWorkload(name string) (Workload, error) {
	names := make([]string, len(Workloads))
	for i, w := range Workloads {
		if w.Name == name {
			return w, nil
		}
		names[i] = w.Name
	}
	return Workload{}, fmt.Errorf("no workload %q: there are %s", name, strings.Join(names, ", "))
}

func (w Workload) check(size int64) error {
	switch {
	case w.BlockSize < 512 || w.BlockSize > 8<<20 || w.BlockSize%512 != 0:
		return fmt.Errorf("block size %d: want a multiple of 512 up to 8 MiB", w.BlockSize)
	case w.ReadPercent < 0 || w.ReadPercent > 100:
		return fmt.Errorf("read share %d%%: want 0 to 100", w.ReadPercent)
	case w.Depth < 1 || w.Depth > 1024:
		return fmt.Errorf("depth %d: want 1 to 1024", w.Depth)
	case size/int64(w.BlockSize) < int64(w.Depth):
		return fmt.Errorf("target of %d bytes is too small for %d requests of %d bytes in flight", size, w.Depth, w.BlockSize)
	}
	return nil
}
