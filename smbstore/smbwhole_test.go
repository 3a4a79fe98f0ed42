package smbstore_test

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf16"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// frozenConn passes nothing on once it has passed a frame with a text in it, as if
// its process had been suspended there.
type frozenConn struct {
	net.Conn
	text   []byte
	frozen *atomic.Bool
}

func (c *frozenConn) Write(p []byte) (int, error) {
	if c.frozen.Load() {
		return len(p), nil
	}
	n, err := c.Conn.Write(p)
	if bytes.Contains(p, c.text) {
		c.frozen.Store(true)
	}
	return n, err
}

// A process that is suspended while it reads a small file does not keep another from
// replacing it: the server has closed the file.
func TestReaderSuspended(t *testing.T) {
	const name = "web1.owner.json"
	var text []byte
	for _, u := range utf16.Encode([]rune(name)) {
		text = append(text, byte(u), byte(u>>8))
	}
	t.Parallel()
	for _, server := range []*storetest.Server{storetest.StartLunless(t), storetest.StartSamba(t)} {
		at, o := server.Location(""), server.Options()
		writer, err := smbstore.Open(t.Context(), at, o)
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		if err := smbstore.WriteFile(writer, name, []byte("epoch 1")); err != nil {
			t.Fatal(err)
		}
		var frozen atomic.Bool
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &frozenConn{Conn: c, text: text, frozen: &frozen}, nil
		}
		reader, err := smbstore.Open(t.Context(), at, o)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		go smbstore.ReadFile(reader, name, 100) //nolint:errcheck // it may come to nothing
		for until := time.Now().Add(time.Minute); !frozen.Load() && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
		if !frozen.Load() {
			t.Fatal("the reader asked for nothing")
		}
		if err := smbstore.WriteFile(writer, name, []byte("epoch 2")); err != nil {
			t.Errorf("%s: beside a suspended reader: %v", at, err)
		}
	}
}
