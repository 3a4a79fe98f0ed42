package smb2

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// cryptoHex reads hex with spaces and line breaks in it.
func cryptoHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 4493 section 4.
func TestCMACVectors(t *testing.T) {
	chain, err := newAESChain(cryptoHex(t, "2b7e151628aed2a6abf7158809cf4f3c"))
	if err != nil {
		t.Fatal(err)
	}
	msg := cryptoHex(t, `6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51
		30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710`)
	c := newCMAC(chain)
	if got, want := c.k1[:], cryptoHex(t, "fbeed618357133667c85e08f7236a8de"); !bytes.Equal(got, want) {
		t.Errorf("K1 = %x, want %x", got, want)
	}
	if got, want := c.k2[:], cryptoHex(t, "f7ddac306ae266ccf90bc11ee46d513b"); !bytes.Equal(got, want) {
		t.Errorf("K2 = %x, want %x", got, want)
	}
	for n, want := range map[int]string{
		0:  "bb1d6929e95937287fa37d129b756746",
		16: "070a16b46b4d4144f79bdd9dd04a287c",
		40: "dfa66747de9ae63030ca32611497c827",
		64: "51f0bebf7e3b9d92fc49741779363cfe",
	} {
		for split := 0; split <= n; split++ { // any division into writes gives the same
			var tag [16]byte
			c.reset()
			c.write(msg[:split])
			c.write(msg[split:n])
			c.sum(&tag)
			if !bytes.Equal(tag[:], cryptoHex(t, want)) {
				t.Errorf("%d bytes split at %d: %x, want %s", n, split, tag, want)
			}
		}
	}
}

// testMessage is a WRITE request's header, MessageId 7, and n bytes of body.
func testMessage(n int) []byte {
	msg := make([]byte, HeaderSize+n)
	copy(msg, "\xfeSMB\x40")
	msg[signCommandAt] = byte(CommandWrite)
	msg[signMessageIDAt] = 7
	for i := range n {
		msg[HeaderSize+i] = byte(i * 7)
	}
	return msg
}

func signers(t testing.TB) map[string]*Signer {
	t.Helper()
	out := map[string]*Signer{}
	for name, alg := range map[string]SigningAlgorithm{"HMAC": SigningHMACSHA256, "CMAC": SigningAESCMAC, "GMAC": SigningAESGMAC} {
		s, err := NewSigner(alg, []byte("0123456789abcdef"))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = s
	}
	return out
}

func TestSignThenVerify(t *testing.T) {
	for name, s := range signers(t) {
		for _, n := range []int{0, 1, 15, 16, 17, 100, 4096, 5000} {
			msg := testMessage(n)
			if s.Verify(msg) {
				t.Errorf("%s: unsigned message of %d verifies", name, n)
			}
			s.Sign(msg)
			if msg[signFlagsAt]&byte(FlagSigned) == 0 {
				t.Errorf("%s: signed flag not set", name)
			}
			before := bytes.Clone(msg)
			if !s.Verify(msg) {
				t.Errorf("%s: message of %d does not verify", name, n)
			}
			if !bytes.Equal(before, msg) {
				t.Errorf("%s: Verify left the message changed", name)
			}
			parts := bytes.Clone(msg)
			clear(parts[signSignatureAt:HeaderSize])
			cut := HeaderSize + n/3
			s.SignParts(parts[:cut:cut], bytes.Clone(parts[cut:]))
			if !bytes.Equal(parts, msg) {
				t.Errorf("%s: SignParts differs from Sign for %d bytes", name, n)
			}
			for at := 0; at < len(msg); at += 1 + len(msg)/50 {
				msg[at] ^= 0x40
				if s.Verify(msg) {
					t.Errorf("%s: verifies with byte %d of %d changed", name, at, len(msg))
				}
				msg[at] ^= 0x40
			}
		}
		if s.Sign(make([]byte, 63)); s.Verify(make([]byte, 63)) {
			t.Errorf("%s: a short message verifies", name)
		}
	}
	if _, err := NewSigner(SigningAESCMAC, make([]byte, 15)); err == nil {
		t.Error("a key of 15 bytes is accepted")
	}
	if _, err := NewSigner(3, make([]byte, 16)); err == nil {
		t.Error("an unknown algorithm is accepted")
	}
}

// The GMAC nonce keeps request, response and CANCEL of one MessageId apart.
func TestGMACNonce(t *testing.T) {
	s := signers(t)["GMAC"]
	sums := map[string]string{}
	for name, set := range map[string]func([]byte){
		"request":  func([]byte) {},
		"cancel":   func(m []byte) { m[signCommandAt] = byte(CommandCancel) },
		"response": func(m []byte) { m[signFlagsAt] |= byte(FlagServerToRedir) },
		"other id": func(m []byte) { m[signMessageIDAt]++ },
	} {
		msg := testMessage(0)
		set(msg)
		s.Sign(msg)
		sum := string(msg[signSignatureAt:])
		if other, ok := sums[sum]; ok {
			t.Errorf("%s and %s have one signature", name, other)
		}
		sums[sum] = name
	}
}

func TestSigningAllocatesNothing(t *testing.T) {
	for name, s := range signers(t) {
		msg := testMessage(4096)
		if n := testing.AllocsPerRun(100, func() {
			s.Sign(msg)
			if !s.Verify(msg) {
				t.Fatal("does not verify")
			}
			s.SignParts(msg[:80], msg[80:])
		}); n != 0 && !cryptoRace {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestSignerIsConcurrent(t *testing.T) {
	for name, s := range signers(t) {
		done := make(chan bool)
		for range 4 {
			go func() {
				msg, ok := testMessage(3000), true
				for range 50 {
					s.Sign(msg)
					ok = ok && s.Verify(msg)
				}
				done <- ok
			}()
		}
		for range 4 {
			if !<-done {
				t.Errorf("%s: a concurrent signature is wrong", name)
			}
		}
	}
}

func BenchmarkSign(b *testing.B) {
	for name, s := range signers(b) {
		for _, size := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				msg := testMessage(size)
				b.SetBytes(int64(len(msg)))
				b.ReportAllocs()
				for b.Loop() {
					s.Sign(msg)
				}
			})
		}
	}
}
