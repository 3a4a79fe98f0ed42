package smbstore_test

import (
	"bytes"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// What a file keeps of its writes is synced away beside them once it is half of what
// it may keep, and is never more than that by more than the writes in flight.
func TestSMBSyncBehind(t *testing.T) {
	eachServer(t, func(t *testing.T, server *storetest.Server) {
		o := server.Options()
		o.ReplayBuffer = 1 << 20
		s, err := smbstore.Open(t.Context(), server.Location(""), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		f, err := s.OpenFile("disk", smbstore.ReadWrite|smbstore.Create)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		const n = 64 << 10
		for i := range int64(200) {
			if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i)}, n), i*n); err != nil {
				t.Fatal(err)
			}
			if fill := smbstore.LogFill(f); fill > o.ReplayBuffer+2*n {
				t.Fatalf("%d bytes kept, %d allowed", fill, o.ReplayBuffer)
			}
		}
		last := time.Now().Add(time.Minute)
		for smbstore.LogFill(f) > o.ReplayBuffer/2 {
			if time.Now().After(last) {
				t.Fatalf("%d bytes are kept for a minute, without a sync", smbstore.LogFill(f))
			}
			time.Sleep(20 * time.Millisecond)
			if _, err := f.WriteAt([]byte{1}, 0); err != nil { // so few never fill it
				t.Fatal(err)
			}
		}
	})
}
