package client_test

import (
	"testing"

	"lunless/shares"
	"lunless/smbstore/client"
)

// Steady reads and writes leave nothing for the garbage collector. The peer is a
// process of its own, so that only the client's allocations count.
func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("not measured under the race detector, which makes sync.Pool forget")
		return
	}
	p := startSamba(t)
	for how, change := range map[string]func(*client.Config){
		"plain":     func(*client.Config) {},
		"signed":    func(c *client.Config) { c.RequireSigning = true },
		"encrypted": func(c *client.Config) { c.Encrypt = true },
	} {
		t.Run(how, func(t *testing.T) {
			cfg := p.config()
			change(&cfg)
			f := create(t, mount(t, dial(t, cfg)), "x", readWrite())
			for _, size := range []int{4096, 256 << 10} {
				b := make([]byte, size)
				run := func() {
					if _, err := f.WriteAt(b, 0); err != nil {
						t.Fatal(err)
					}
					if _, err := f.ReadAt(b, 0); err != nil {
						t.Fatal(err)
					}
				}
				for range 50 {
					run()
				}
				// Whole pools are dropped with each collection: less than one is none.
				if n := testing.AllocsPerRun(300, run); n >= 1 {
					t.Errorf("%d bytes: %v allocations for a write and a read", size, n)
				}
			}
		})
	}
}

func BenchmarkIO(b *testing.B) {
	for how, change := range map[string]func(*client.Config){
		"plain":  func(*client.Config) {},
		"GMAC":   func(c *client.Config) { c.RequireSigning = true },
		"sealed": func(c *client.Config) { c.Encrypt = true },
	} {
		p := startOurs(b, func(c *shares.Config) { c.Signing = shares.SigningEnabled })
		cfg := p.config()
		change(&cfg)
		f := create(b, mount(b, dial(b, cfg)), "x", readWrite())
		big := make([]byte, 4<<20)
		if _, err := f.WriteAt(big, 0); err != nil {
			b.Fatal(err)
		}
		for name, size := range map[string]int{"4k": 4096, "4M": 4 << 20} {
			b.Run(how+"/read-"+name, func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for range b.N {
					if _, err := f.ReadAt(big[:size], 0); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(how+"/write-"+name, func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for range b.N {
					if _, err := f.WriteAt(big[:size], 0); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
