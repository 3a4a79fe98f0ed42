package block

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

// keeper does not answer a write before the test ends, and shows what it was lent.
type keeper struct {
	Device
	lent chan []byte
	over chan struct{}
}

func (k *keeper) WriteAt(_ context.Context, p []byte, _ int64, _ WriteFlags) error {
	k.lent <- p
	<-k.over
	return nil
}

// Memory that was lent to a request which was given up is not used again. A pool
// gives back the last thing put into it most of the time, so this is tried often.
func TestPatientLent(t *testing.T) {
	const size = 64 << 10
	src := NewMem(size)
	if err := src.WriteAt(t.Context(), bytes.Repeat([]byte{1}, size), 0, 0); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	defer close(over)
	for range 20 {
		k := &keeper{NewMem(size), make(chan []byte, 1), over}
		m, err := NewMirror(src, NewPatient(k, time.Millisecond), MirrorOptions{Granularity: size})
		if err != nil {
			t.Fatal(err)
		}
		p := &copyPass{m: m, opts: CopyOptions{ChunkSize: size}}
		p.bufs.New = func() any { return &copyBuffer{b: make([]byte, size)} }
		if err := p.copyChunk(t.Context(), 0, size); !errors.Is(err, ErrNoAnswer) {
			t.Fatalf("got %v, want ErrNoAnswer", err)
		}
		lent := <-k.lent
		if buf := p.bufs.Get().(*copyBuffer); &buf.b[0] == &lent[0] {
			t.Fatal("what was lent is used again")
		}
	}
}
