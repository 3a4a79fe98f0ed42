package qemu

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"
)

func testInfo() StateInfo {
	return StateInfo{UUID: uuid.MustParse("5b1f0b8e-0a52-4f0e-9a50-8f0f6f0d2c11"), MachineType: "pc-q35-7.2", Memory: 1 << 20,
		Digest: "d", Saved: time.Unix(1795415497, 0).UTC()}
}

// packState returns the container of a stream that is cut into pieces.
func packState(t testing.TB, pieces ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := newStateWriter(&b, testInfo())
	if err != nil {
		t.Fatal(err)
	}
	defer w.zstd.Close()
	for _, p := range pieces {
		if err := w.chunk(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	if w.stored != int64(b.Len()) {
		t.Errorf("%d bytes counted, %d written", w.stored, b.Len())
	}
	return b.Bytes()
}

// unpackState returns what was handed out, also before an error.
func unpackState(r io.Reader) (stream []byte, info StateInfo, err error) {
	s, info, err := newStateReader(r)
	if err != nil {
		return nil, info, err
	}
	defer s.zstd.Close()
	for {
		p, err := s.next()
		if errors.Is(err, io.EOF) {
			return stream, info, nil
		}
		if err != nil {
			return stream, info, err
		}
		stream = append(stream, p...)
	}
}

func testPieces(seed uint64) [][]byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	noise := make([]byte, 3000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	return [][]byte{make([]byte, chunkSize), noise, []byte("x"), bytes.Repeat([]byte("page"), 5000)}
}

func TestState(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	pieces := testPieces(seed)
	want := bytes.Join(pieces, nil)
	packed := packState(t, pieces...)
	if len(packed) > 8000 {
		t.Errorf("%d bytes, most of them zero, take %d", len(want), len(packed))
	}
	for _, r := range []io.Reader{bytes.NewReader(packed), iotest.OneByteReader(bytes.NewReader(packed))} {
		got, info, err := unpackState(r)
		if err != nil || !bytes.Equal(got, want) || info != testInfo() {
			t.Fatalf("%d bytes of %d, %+v, %v", len(got), len(want), info, err)
		}
	}

	pieces = [][]byte{make([]byte, 5000), pieces[1][:300], []byte("x")}
	want, packed = bytes.Join(pieces, nil), packState(t, pieces...)
	for i := range packed {
		flipped := bytes.Clone(packed)
		flipped[i] ^= 1 << (i % 8)
		got, _, err := unpackState(bytes.NewReader(flipped))
		if !errors.Is(err, ErrStateDamaged) && !errors.Is(err, ErrNotState) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if !bytes.HasPrefix(want, got) {
			t.Fatalf("byte %d flipped: damaged bytes were handed out", i)
		}
		if _, _, err := unpackState(bytes.NewReader(packed[:i])); !errors.Is(err, ErrStateDamaged) && !errors.Is(err, ErrNotState) {
			t.Fatalf("cut at byte %d: %v", i, err)
		}
	}
	broken := errors.New("broken disk")
	r := io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(broken))
	if _, err := CheckState(r); !errors.Is(err, broken) || errors.Is(err, ErrStateDamaged) {
		t.Errorf("a file that cannot be read: %v", err)
	}
}

// Whole frames in another order, twice, or of another state are found.
func TestStateFrames(t *testing.T) {
	a, b := bytes.Repeat([]byte{1}, 100), bytes.Repeat([]byte{2}, 100)
	empty := packState(t)
	one := packState(t, a)
	two := packState(t, a, b)
	end := len(empty) - 9 - 32
	frameA := one[end : len(one)-9-32]
	frameB := two[end+len(frameA) : len(two)-9-32]
	for name, parts := range map[string][][]byte{
		"swapped": {frameB, frameA, two[len(two)-41:]},
		"twice":   {frameA, frameA, two[len(two)-41:]},
		"left":    {frameB, two[len(two)-41:]},
		"end":     {frameA, empty[len(empty)-41:]},
	} {
		state := append(bytes.Clone(empty[:end]), bytes.Join(parts, nil)...)
		if _, _, err := unpackState(bytes.NewReader(state)); !errors.Is(err, ErrStateDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What reads as a whole state was written by nobody but the writer: it packs to
// the same stream again. Nothing makes the reader keep more than a frame.
func FuzzState(f *testing.F) {
	f.Add(packState(f))
	f.Add(packState(f, []byte("abc"), bytes.Repeat([]byte("page"), 500)))
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _, err := newStateReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		defer s.zstd.Close()
		var pieces [][]byte
		for err == nil {
			var p []byte
			if p, err = s.next(); err == nil {
				pieces = append(pieces, bytes.Clone(p))
			}
			if cap(s.piece) > 2*chunkSize || cap(s.frame) > 2*chunkSize {
				t.Fatalf("%d and %d bytes kept", cap(s.piece), cap(s.frame))
			}
		}
		if !errors.Is(err, io.EOF) {
			return
		}
		again, _, err := unpackState(bytes.NewReader(packState(t, pieces...)))
		if err != nil || !bytes.Equal(again, bytes.Join(pieces, nil)) {
			t.Fatalf("packed again: %d bytes, %v", len(again), err)
		}
	})
}
