package client_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"lunless/smbstore/client"
	"lunless/smbstore/smb2"
)

// channelPeers bind several connections to a session.
func channelPeers(t *testing.T, test func(t *testing.T, p *peer)) {
	t.Run("lunless", func(t *testing.T) { t.Parallel(); test(t, startOurs(t, nil)) })
	t.Run("samba", func(t *testing.T) {
		t.Parallel()
		test(t, startSamba(t, append(durableSamba, "server multi channel support = yes")...))
	})
}

// waitChannels waits until a session has as many channels as it should.
func waitChannels(t testing.TB, c *client.Client, want int) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); c.Granted().Channels != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d channels, want %d", c.Granted().Channels, want)
		}
	}
}

// A session over several connections (MS-SMB2 3.2.4.2.3 binding, 3.2.7.1): a handle
// that is not durable survives all of them but one.
func TestChannels(t *testing.T) {
	channelPeers(t, func(t *testing.T, p *peer) {
		for how, change := range map[string]func(*client.Config){
			"signed":    func(c *client.Config) { c.RequireSigning = true },
			"encrypted": func(c *client.Config) { c.Encrypt = true },
			"3.0":       func(c *client.Config) { c.MaxDialect = smb2.Dialect300; c.RequireSigning = true },
		} {
			t.Run(how, func(t *testing.T) {
				r := startRelay(t, p.addr)
				cfg := p.config()
				cfg.Addr, cfg.Channels = r.addr, 3
				change(&cfg)
				c := dial(t, cfg)
				tree := mount(t, c)
				f := create(t, tree, fmt.Sprintf("file %s", how), readWrite())
				data := bytes.Repeat([]byte(how), 1<<20)
				for range 4 {
					waitChannels(t, c, 3)
					_, err := f.WriteAt(data, 0)
					must(t, "write", err)
					got := make([]byte, len(data))
					_, err = f.ReadAt(got, 0)
					if err != nil || !bytes.Equal(got, data) {
						t.Fatalf("read: %v", err)
					}
					list := r.links()
					r.cut(list[0])
					r.cut(list[1])
					_, err = f.WriteAt(data, 0)
					must(t, "write after the cut", err)
				}
				must(t, "close", f.Close())
			})
		}
	})
}

func TestChannelCutsUnderLoad(t *testing.T) {
	channelPeers(t, func(t *testing.T, p *peer) { cutsUnderLoad(t, p, 3, 3*time.Second) })
}
