package shares

import (
	"errors"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

var errBroken = errors.New("the disk is broken")

// faultyShares serves the plain share "vms" and the continuously available one "ca"
// on one store that fails as its hook says.
func faultyShares(t *testing.T) (*testServer, *fs.Fault) {
	root, dir := t.TempDir(), t.TempDir()
	faulty := fs.NewFault(openFS(t, root))
	srv := startServer(t, func(c *Config) {
		c.StateDir = dir
		c.Shares = []Share{{Name: "vms", FS: faulty}, {Name: "ca", FS: faulty, ContinuouslyAvailable: true}}
	})
	return srv, faulty
}

// Whatever a continuously available share answers with success is on stable storage:
// where that fails, the request fails. A plain share promises it of FLUSH and of what
// is written through.
func TestAcknowledgedIsStable(t *testing.T) {
	const dir = smb2.FileDirectoryFile
	set := func(class fscc.InfoClass, m encoder) func(c *rawClient, id smb2.FileID) smb2.Status {
		return func(c *rawClient, id smb2.FileID) smb2.Status {
			b := make([]byte, m.Size())
			m.Encode(b)
			return c.call(smb2.CommandSetInfo, &smb2.SetInfoRequest{
				InfoType: smb2.InfoFile, FileInfoClass: uint8(class), FileID: id, Buffer: b}, nil).hdr.Status
		}
	}
	create := func(name string, d smb2.CreateDisposition, o smb2.CreateOptions) func(c *rawClient, _ smb2.FileID) smb2.Status {
		return func(c *rawClient, _ smb2.FileID) smb2.Status {
			q := createRequest(name)
			q.CreateDisposition, q.CreateOptions = d, o
			return c.call(smb2.CommandCreate, q, nil).hdr.Status
		}
	}
	write := func(c *rawClient, id smb2.FileID) smb2.Status { return c.writeThroughOpen(id, 0) }
	closes := func(c *rawClient, id smb2.FileID) smb2.Status {
		return c.call(smb2.CommandClose, &smb2.CloseRequest{FileID: id}, nil).hdr.Status
	}
	tests := []struct {
		name        string
		do          func(c *rawClient, id smb2.FileID) smb2.Status
		sync, names bool // on the share that is continuously available
		plain       bool // on the other too
	}{
		{"create a file", create("new", smb2.FileCreate, 0), true, true, false},
		{"create a folder", create("folder", smb2.FileCreate, dir), true, true, false},
		{"create a stream", create("there:s", smb2.FileCreate, 0), true, true, false},
		{"overwrite", create("there", smb2.FileOverwrite, 0), true, true, false},
		{"open", create("there", smb2.FileOpen, 0), false, false, false},
		{"write", write, true, false, false},
		{"flush", func(c *rawClient, id smb2.FileID) smb2.Status {
			return c.call(smb2.CommandFlush, &smb2.FlushRequest{FileID: id}, nil).hdr.Status
		}, true, true, true},
		{"set size", set(fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 9}), true, true, false},
		{"set allocation", set(fscc.FileAllocationInformation, &fscc.AllocationInfo{AllocationSize: 9}), true, true, false},
		{"set attributes", set(fscc.FileBasicInformation, &fscc.BasicInfo{Attributes: fscc.FILE_ATTRIBUTE_HIDDEN}), true, true, false},
		{"rename", set(fscc.FileRenameInformation, &fscc.RenameInfo{Name: "elsewhere"}), true, true, false},
		{"link", set(fscc.FileLinkInformation, &fscc.RenameInfo{Name: "second"}), true, true, false},
		{"zero", func(c *rawClient, id smb2.FileID) smb2.Status {
			_, st := c.ioctl(id, fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Offset: 0, Beyond: 2}, 0)
			return st
		}, true, false, false},
		{"delete", func(c *rawClient, id smb2.FileID) smb2.Status {
			if st := set(fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true})(c, id); st != smb2.StatusSuccess {
				return st
			}
			return closes(c, id)
		}, true, true, false},
	}
	for _, tt := range tests {
		for _, broken := range []fs.Op{fs.OpSync, fs.OpSyncParent} {
			for _, share := range []string{"vms", "ca"} {
				t.Run(tt.name+"/"+string(broken)+"/"+share, func(t *testing.T) {
					srv, faulty := faultyShares(t)
					c := loginRaw(t, srv.addr, smb2.Dialect311, share)
					id := c.create("there")
					if st := c.writeThroughOpen(id, 0); st != smb2.StatusSuccess {
						t.Fatal(st)
					}
					failed := false
					faulty.Set(func(op fs.Op, _ string) error {
						if op != broken {
							return nil
						}
						failed = true
						return errBroken
					})
					st := tt.do(c, id)
					fails := (share == "ca" || tt.plain) && (broken == fs.OpSync && tt.sync || broken == fs.OpSyncParent && tt.names)
					if fails != failed {
						t.Errorf("%s called: %v, want %v (%v)", broken, failed, fails, st)
					}
					if fails == (st == smb2.StatusSuccess) {
						t.Errorf("%v although %s failed", st, broken)
					}
				})
			}
		}
	}
}

// writeThroughOpen writes a few bytes.
func (c *rawClient) writeThroughOpen(id smb2.FileID, flags smb2.WriteFlags) smb2.Status {
	c.t.Helper()
	data := []byte("data")
	return c.call(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: uint32(len(data)), Flags: flags}, data).hdr.Status
}

// A failed flush is the end of the open: nothing is written through it any more, and
// no later flush takes it back. Once everybody has closed the file it can be opened
// again.
func TestFailedFlushEndsTheOpen(t *testing.T) {
	flush := func(c *rawClient, id smb2.FileID) smb2.Status {
		return c.call(smb2.CommandFlush, &smb2.FlushRequest{FileID: id}, nil).hdr.Status
	}
	for _, tt := range []struct {
		name, share string
		fails       func(c *rawClient, id smb2.FileID) smb2.Status
	}{
		{"FLUSH", "vms", flush},
		{"FLUSH on a share that is continuously available", "ca", flush},
		{"WRITE that is to go through", "vms", func(c *rawClient, id smb2.FileID) smb2.Status {
			return c.writeThroughOpen(id, smb2.WriteFlagWriteThrough|smb2.WriteFlagWriteUnbuffered)
		}},
		{"WRITE on a share that is continuously available", "ca", func(c *rawClient, id smb2.FileID) smb2.Status {
			return c.writeThroughOpen(id, 0)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, faulty := faultyShares(t)
			c := loginRaw(t, srv.addr, smb2.Dialect311, tt.share)
			id, other := c.create("f"), c.create("f")
			once := true
			faulty.Set(func(op fs.Op, _ string) error {
				if op == fs.OpSync && once {
					once = false
					return errBroken
				}
				return nil
			})
			if st := tt.fails(c, id); st == smb2.StatusSuccess {
				t.Fatal("success although the flush failed")
			}
			for _, id := range []smb2.FileID{id, other} {
				if st := c.writeThroughOpen(id, 0); st != smb2.StatusIODeviceError {
					t.Errorf("WRITE after it: %v", st)
				}
				if st := flush(c, id); st != smb2.StatusIODeviceError {
					t.Errorf("FLUSH after it: %v", st)
				}
			}
			for _, id := range []smb2.FileID{id, other} {
				c.call(smb2.CommandClose, &smb2.CloseRequest{FileID: id}, nil)
			}
			again := c.create("f")
			if st := c.writeThroughOpen(again, 0); st != smb2.StatusSuccess {
				t.Errorf("WRITE through a new open: %v", st)
			}
			if st := flush(c, again); st != smb2.StatusSuccess {
				t.Errorf("FLUSH of a new open: %v", st)
			}
		})
	}
}
