package smb2

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"
)

var allCiphers = []Cipher{CipherAES128CCM, CipherAES128GCM, CipherAES256CCM, CipherAES256GCM}

func sealPair(t testing.TB, c Cipher) (*Sealer, *Opener) {
	t.Helper()
	key := []byte("0123456789abcdef0123456789ABCDEF")[:c.keySize()]
	s, err := NewSealer(c, key, 0x1122334455667788)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(c, key)
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

// sealBuffer is a message of n body bytes behind headroom, with tail room or without.
func sealBuffer(n, tail int) []byte {
	msg := testMessage(n)
	buf := make([]byte, TransformHeaderSize+len(msg), TransformHeaderSize+len(msg)+tail)
	copy(buf[TransformHeaderSize:], msg)
	return buf
}

func TestSealThenOpen(t *testing.T) {
	for _, c := range allCiphers {
		s, o := sealPair(t, c)
		for _, n := range []int{0, 1, 15, 16, 17, 100, 4096, 5003} {
			for _, tail := range []int{0, 1, SealTailroom, 64} {
				buf, msg := sealBuffer(n, tail), testMessage(n)
				if err := s.Seal(buf); err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(buf[TransformHeaderSize:], msg[:16]) {
					t.Errorf("%v: not encrypted", c)
				}
				if id, err := TransformSession(buf); err != nil || id != 0x1122334455667788 {
					t.Errorf("%v: session %x, %v", c, id, err)
				}
				apart := make([]byte, len(msg))
				if got, err := o.OpenTo(apart, buf); err != nil || !bytes.Equal(got, msg) {
					t.Errorf("%v: OpenTo of %d bytes: %v", c, n, err)
				}
				got, err := o.Open(buf)
				if err != nil || !bytes.Equal(got, msg) {
					t.Errorf("%v: Open of %d bytes with tail room %d: %v", c, n, tail, err)
				} else if &got[0] != &buf[TransformHeaderSize] {
					t.Errorf("%v: not opened in place", c)
				}
				dst := make([]byte, TransformHeaderSize+len(msg))
				if err := s.SealTo(dst, msg); err != nil {
					t.Fatal(err)
				}
				if got, err := o.Open(dst); err != nil || !bytes.Equal(got, msg) {
					t.Errorf("%v: SealTo of %d bytes: %v", c, n, err)
				}
			}
		}
	}
}

// Everything but protocol id and the reserved field outside the nonce is either
// checked or authenticated.
func TestOpenRefusesAlteration(t *testing.T) {
	for _, c := range allCiphers {
		s, o := sealPair(t, c)
		good := sealBuffer(33, SealTailroom)
		if err := s.Seal(good); err != nil {
			t.Fatal(err)
		}
		for at := range good {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			if _, err := o.Open(bad); !errors.Is(err, ErrDecrypt) && !errors.Is(err, ErrTransform) {
				t.Errorf("%v: byte %d changed: %v", c, at, err)
			}
		}
		for n := range good {
			if _, err := o.Open(bytes.Clone(good[:n])); !errors.Is(err, ErrTransform) {
				t.Errorf("%v: %d bytes of it: %v", c, n, err)
			}
		}
	}
}

func TestSealErrors(t *testing.T) {
	s, o := sealPair(t, CipherAES128GCM)
	if err := s.Seal(make([]byte, 51)); !errors.Is(err, ErrTransform) {
		t.Errorf("no headroom: %v", err)
	}
	if err := s.SealTo(make([]byte, 60), make([]byte, 9)); !errors.Is(err, ErrTransform) {
		t.Errorf("wrong destination: %v", err)
	}
	buf := sealBuffer(9, 0)
	if err := s.Seal(buf); err != nil {
		t.Fatal(err)
	}
	if _, err := o.OpenTo(make([]byte, 9), buf); !errors.Is(err, ErrTransform) {
		t.Errorf("wrong destination: %v", err)
	}
	s.nonce.Store(math.MaxUint64 - 2)
	for i, want := range []error{nil, ErrNonces, ErrNonces} {
		if err := s.Seal(sealBuffer(9, 0)); err != want {
			t.Errorf("message %d from the end of the nonces: %v, want %v", i, err, want)
		}
	}
	for _, c := range []Cipher{0, 5} {
		if _, err := NewSealer(c, make([]byte, 16), 0); err == nil {
			t.Errorf("%v is accepted", c)
		}
	}
	if _, err := NewOpener(CipherAES256GCM, make([]byte, 16)); err == nil {
		t.Error("a short key is accepted")
	}
}

func TestNoncesDiffer(t *testing.T) {
	for _, c := range allCiphers {
		s, _ := sealPair(t, c)
		seen := map[string]bool{}
		for range 1000 {
			buf := sealBuffer(0, SealTailroom)
			if err := s.Seal(buf); err != nil {
				t.Fatal(err)
			}
			seen[string(buf[transformNonceAt:][:c.nonceSize()])] = true
		}
		if len(seen) != 1000 {
			t.Errorf("%v: %d nonces in 1000 messages", c, len(seen))
		}
	}
}

func TestSealingAllocatesNothing(t *testing.T) {
	for _, c := range allCiphers {
		s, o := sealPair(t, c)
		buf := sealBuffer(4096, SealTailroom)
		if n := testing.AllocsPerRun(100, func() {
			if err := s.Seal(buf); err != nil {
				t.Fatal(err)
			}
			if _, err := o.Open(buf); err != nil {
				t.Fatal(err)
			}
		}); n != 0 && !cryptoRace {
			t.Errorf("%v: %v allocations", c, n)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, c := range allCiphers {
		for _, size := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%v/%dKiB", c, size>>10), func(b *testing.B) {
				s, _ := sealPair(b, c)
				buf := sealBuffer(size, SealTailroom)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := s.Seal(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, c := range allCiphers {
		for _, size := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%v/%dKiB", c, size>>10), func(b *testing.B) {
				s, o := sealPair(b, c)
				buf := sealBuffer(size, SealTailroom)
				if err := s.Seal(buf); err != nil {
					b.Fatal(err)
				}
				keep := bytes.Clone(buf)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					copy(buf, keep)
					if _, err := o.Open(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
