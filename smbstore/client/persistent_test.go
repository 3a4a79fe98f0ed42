package client_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore/client"
	"lunless/smbstore/smb2"
	"lunless/smbstore/storetest"
)

// kills is how often TestPersistentKills kills the server: KILLS, or a few.
func kills(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("KILLS")); err == nil {
		return n
	}
	return 5
}

// The server is killed and started again while a client writes through persistent
// handles, takes and gives back locks, and makes files: nothing fails, nothing that
// was acknowledged is missing, locks are still held, and nobody else gets in.
func TestPersistentKills(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	server := storetest.StartLunless(t)
	cfg := client.Config{
		Addr: fmt.Sprintf("127.0.0.1:%d", server.Port), Logger: testLogger(), Channels: 2, ReconnectTimeout: time.Minute,
		Credentials: client.Credentials{User: server.User, Password: storetest.Password},
	}
	tree, err := dial(t, cfg).TreeConnect(t.Context(), "ca")
	must(t, "connect", err)
	if !tree.ContinuouslyAvailable() {
		t.Fatal("the share is not continuously available")
	}
	o := readWrite()
	o.Durable, o.Share, o.Timeout = client.Persistent, smb2.FileShareRead, time.Minute
	const workers, size = 4, 16 << 10
	var files [workers]*client.File
	for i := range files {
		files[i] = create(t, tree, fmt.Sprintf("disk%d", i), o)
		if g := files[i].Granted(); g.Durability != client.Persistent {
			t.Fatalf("granted %+v", g)
		}
	}
	held := client.LockRange{Offset: 1 << 40, Length: 100, Exclusive: true}
	must(t, "lock", files[0].Lock(t.Context(), false, held))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var ops atomic.Int64
	var last [workers]uint64
	for w, f := range files {
		wg.Add(1)
		go func() {
			defer wg.Done()
			a, b := make([]byte, size), make([]byte, size)
			for n := uint64(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				for i := 0; i < size; i += 8 {
					binary.LittleEndian.PutUint64(a[i:], n)
				}
				if err := persistentRound(t, tree, f, w, n, a, b); err != nil {
					t.Errorf("writer %d, round %d: %v", w, n, err)
					return
				}
				last[w] = n
				ops.Add(1)
			}
		}()
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range kills(t) {
		time.Sleep(time.Duration(100+rnd.IntN(300)) * time.Millisecond)
		server.Kill()
		time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
		server.Start(t)
		intrude(t, cfg)
	}
	close(stop)
	wg.Wait()
	t.Logf("%d rounds", ops.Load())
	if ops.Load() < int64(kills(t)) {
		t.Errorf("only %d rounds", ops.Load())
	}
	must(t, "unlock what was locked before", files[0].Unlock(t.Context(), held))
	got := make([]byte, 8)
	for w, f := range files {
		if _, err := f.ReadAt(got, 0); err != nil || binary.LittleEndian.Uint64(got) != last[w] {
			t.Errorf("file %d holds %d, acknowledged was %d, %v", w, binary.LittleEndian.Uint64(got), last[w], err)
		}
		must(t, "close", f.Close())
	}
}

func persistentRound(t *testing.T, tree *client.Tree, f *client.File, w int, n uint64, a, b []byte) error {
	if _, err := f.WriteAt(a, 0); err != nil {
		return err
	}
	if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(a, b) {
		return fmt.Errorf("wrote %d and read %d: %w", n, binary.LittleEndian.Uint64(b), err)
	}
	lock := client.LockRange{Offset: 1 << 30, Length: 10, Exclusive: true}
	if err := f.Lock(t.Context(), false, lock); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if err := f.Unlock(t.Context(), lock); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	o := readWrite()
	o.Durable, o.Disposition, o.Timeout = client.Persistent, smb2.FileCreate, time.Minute
	name := fmt.Sprintf("new-%d-%d", w, n)
	x, err := tree.Create(t.Context(), name, o)
	if errors.Is(err, client.ErrConnectionLost) {
		// The server died after it had made the file and before it had noted for whom.
		o.Disposition = smb2.FileOpen
		x, err = tree.Create(t.Context(), name, o)
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := x.Delete(t.Context(), true); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return x.Close()
}

// intrude tries to write to what another holds.
func intrude(t *testing.T, cfg client.Config) {
	t.Helper()
	cfg.Channels = 1
	c, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Errorf("a second client: %v", err)
		return
	}
	defer c.Close()
	tree, err := c.TreeConnect(t.Context(), "ca")
	if err != nil {
		t.Errorf("a second client: %v", err)
		return
	}
	for i := range 4 {
		if f, err := tree.Create(t.Context(), fmt.Sprintf("disk%d", i), readWrite()); err == nil {
			t.Error("a second client got in between")
			f.Close()
		}
	}
}
