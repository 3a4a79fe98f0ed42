package shares

import (
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// A file that is deleted, or renamed, and made again by its short name gets its long name
// back, once (MS-FSA 2.1.5.1.1).
func TestTunnel(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	const long = "A long name.vhdx"
	short := fs.ShortName(long)
	c.existing(long, 0, 0)
	c.closeFile(c.open(short, rightsAll, smb2.FileDeleteOnClose))
	c.wantOpen(long, 1, shareAll, smb2.StatusObjectNameNotFound)
	c.existing(short, 0, 0)
	c.wantOpen(long, 1, shareAll, 0)
	id := c.open(long, rightsAll, 0)
	if st := c.rename(id, "other", false); st != 0 {
		t.Fatal(st)
	}
	c.closeFile(id)
	c.existing(short, 0, 0)
	c.wantOpen(long, 1, shareAll, 0)
	id = c.open(long, rightsAll, 0)
	if st := c.rename(id, "other2", false); st != 0 {
		t.Fatal(st)
	}
	c.closeFile(id)
	c.existing(long, smb2.FileDirectoryFile, 0) // took the name meanwhile
	c.wantOpen(short, 1, shareAll, 0)
}

func TestTunnelIsBounded(t *testing.T) {
	var tun tunnel
	s := &share{Share: Share{Name: "vms"}}
	for i := range 3 * maxTunnelled {
		tun.left(s, "folder/a name too long "+string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	if len(tun.names) != maxTunnelled {
		t.Errorf("%d names kept", len(tun.names))
	}
}
