package client

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

// frames are what a server might send, one after another.
func frames(list ...[]byte) []byte {
	var b []byte
	for _, f := range list {
		h := make([]byte, smb2.FrameHeaderSize)
		smb2.PutFrameHeader(h, len(f))
		b = append(append(b, h...), f...)
	}
	return b
}

func response(cmd smb2.Command, id uint64, status smb2.Status, m message, payload string) []byte {
	h := smb2.Header{Command: cmd, MessageID: id, Status: status, Flags: smb2.FlagServerToRedir, Credits: 8}
	b := make([]byte, m.Size())
	h.Encode(b)
	m.Encode(b)
	return append(b, payload...)
}

// FuzzReceive gives a connection with requests outstanding whatever bytes. It must
// neither crash nor hang, and every request must be told how it ended.
func FuzzReceive(f *testing.F) {
	read := &smb2.ReadResponse{DataLength: 5}
	f.Add(frames(response(smb2.CommandRead, 0, 0, read, "hello"), response(smb2.CommandWrite, 1, 0, &smb2.WriteResponse{Count: 3}, "")))
	f.Add(frames(response(smb2.CommandCreate, 2, 0, &smb2.CreateResponse{}, ""), response(smb2.CommandRead, 0, smb2.StatusEndOfFile, &smb2.ErrorResponse{}, "")))
	f.Add(frames(response(smb2.CommandRead, 0, smb2.StatusPending, &smb2.ErrorResponse{}, ""), response(smb2.CommandRead, 0, 0, read, "hello")))
	f.Add(frames(smb2.LinkCompound(response(smb2.CommandCreate, 2, 0, &smb2.CreateResponse{}, ""), 0)))
	f.Add(frames(response(smb2.CommandOplockBreak, notificationID, 0, &smb2.OplockBreak{}, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg, err := Config{Addr: "server:445", RequestTimeout: 5 * time.Second, Logger: slog.New(slog.DiscardHandler)}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		go func() {
			buf := make([]byte, 4096)
			for {
				if _, err := theirs.Read(buf); err != nil {
					return
				}
			}
		}()
		c := startConn(&cfg, "server:445", ours)
		c.mu.Lock()
		c.neg = negotiated{dialect: smb2.Dialect311, multiCredit: true, maxFrame: 1 << 20}
		c.credits.avail = 8
		c.mu.Unlock()
		dst := make([]byte, 64)
		ctx := context.Background()
		var list []*call
		for _, cmd := range []smb2.Command{smb2.CommandRead, smb2.CommandWrite, smb2.CommandCreate} {
			k := newCall(cmd)
			if cmd == smb2.CommandRead {
				k.dst = dst[:32]
			}
			if err := c.reserve(ctx, k, 1); err != nil {
				t.Fatal(err)
			}
			c.send(ctx, k, &smb2.EchoRequest{}, nil)
			list = append(list, k)
		}
		_, _ = theirs.Write(b)
		_ = theirs.Close()
		for _, k := range list {
			if k.wait(ctx) == nil {
				if k.n > 32 || k.dst != nil && k.body != nil && k.resp.Status == 0 && len(k.body) < smb2.HeaderSize {
					t.Errorf("%d bytes read into 32", k.n)
				}
				k.free()
			}
		}
		<-c.gone
		for _, x := range dst[32:] {
			if x != 0 {
				t.Fatal("data behind the caller's memory")
			}
		}
	})
}
