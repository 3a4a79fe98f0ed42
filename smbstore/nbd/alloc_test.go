//go:build !race

package nbd

import (
	"io"
	"testing"

	"lunless/smbstore/block"
)

// TestSteadyStateAllocates: reads and writes allocate nothing, those that the
// reader serves and those that workers do. Under the race detector pools forget.
func TestSteadyStateAllocates(t *testing.T) {
	dev := block.NewMem(4 << 20)
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i%251 + 1)
	}
	must(t, dev.WriteAt(t.Context(), data, 0, 0))
	_, path := startServer(t, Options{}, ExportOptions{Device: dev})
	for _, tt := range []struct {
		name       string
		structured bool
		flags      uint16
		cmd        command
		off        uint64
		n          uint32
		batch      int
		reply      int // bytes a request
	}{
		{"small reads", false, 0, cmdRead, 4096, 4096, 16, simpleSize + 4096},
		{"small structured reads", true, 0, cmdRead, 4096, 4096, 16, chunkSize + 8 + 4096},
		{"holes", true, 0, cmdRead, 2 << 20, 4096, 16, chunkSize + 12},
		{"small writes", true, 0, cmdWrite, 4096, 4096, 16, simpleSize},
		{"writes by workers", true, cmdFlagFUA, cmdWrite, 4096, 4096, 4, simpleSize},
		{"large reads", false, 0, cmdRead, 0, 256 << 10, 4, simpleSize + 256<<10},
		{"large structured reads", true, 0, cmdRead, 0, 256 << 10, 4, chunkSize + 8 + 256<<10},
		{"large writes", true, 0, cmdWrite, 0, 256 << 10, 4, simpleSize},
	} {
		c := connect(t, path, "", tt.structured)
		var out []byte
		for range tt.batch {
			out = append(out, requestBytes(tt.flags, tt.cmd, 1, tt.off, tt.n)...)
			if tt.cmd == cmdWrite {
				out = append(out, data[:tt.n]...)
			}
		}
		in := make([]byte, tt.reply*tt.batch)
		round := func() {
			// Replies are small where requests are large, so neither side is stuck.
			if _, err := c.Write(out); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c.Conn, in); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 {
			round()
		}
		if n := testing.AllocsPerRun(300, round); n != 0 {
			t.Errorf("%s: %v allocations for %d requests", tt.name, n, tt.batch)
		}
		c.Close()
	}
}
