package smb2

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"sync"
)

// SigningAlgorithm is how messages are signed (MS-SMB2 2.2.3.1.7).
type SigningAlgorithm uint16

const (
	SigningHMACSHA256 SigningAlgorithm = 0 // 2.0.2 and 2.1
	SigningAESCMAC    SigningAlgorithm = 1 // 3.x
	SigningAESGMAC    SigningAlgorithm = 2 // 3.1.1, where negotiated
)

func (a SigningAlgorithm) String() string {
	switch a {
	case SigningHMACSHA256:
		return "HMAC-SHA256"
	case SigningAESCMAC:
		return "AES-128-CMAC"
	case SigningAESGMAC:
		return "AES-128-GMAC"
	}
	return fmt.Sprintf("signing algorithm %d", uint16(a))
}

// SigningFor is the algorithm of a dialect that negotiated none (MS-SMB2 3.1.4.1).
func SigningFor(d Dialect) SigningAlgorithm {
	if d < Dialect300 {
		return SigningHMACSHA256
	}
	return SigningAESCMAC
}

// Where the header fields that signing touches are (MS-SMB2 2.2.1).
const (
	signCommandAt   = 12
	signFlagsAt     = 16
	signMessageIDAt = 24
	signSignatureAt = 48
	signatureSize   = 16
)

// Signer signs and verifies the messages of one session or channel. It is safe
// for concurrent use and allocates nothing once its pool is warm.
type Signer struct {
	alg  SigningAlgorithm
	gcm  cipher.AEAD // GMAC only
	pool sync.Pool   // *signScratch
}

// signScratch is what one signature needs besides the message. It lives on the
// heap because hash.Hash and cipher.AEAD hide from the compiler what they keep.
type signScratch struct {
	head   [HeaderSize]byte
	tag    [sha256.Size]byte
	nonce  [12]byte
	gather []byte
	hmac   hash.Hash
	cmac   *cmac
}

// NewSigner makes a signer from the session's (or channel's) signing key, 16 bytes.
func NewSigner(alg SigningAlgorithm, key []byte) (*Signer, error) {
	if len(key) != 16 {
		return nil, fmt.Errorf("smb2: signing key of %d bytes, want 16", len(key))
	}
	key = append([]byte(nil), key...)
	s := &Signer{alg: alg}
	if alg == SigningHMACSHA256 {
		s.pool.New = func() any { return &signScratch{hmac: hmac.New(sha256.New, key)} }
		return s, nil
	}
	chain, err := newAESChain(key)
	if err != nil {
		return nil, fmt.Errorf("smb2: signing key: %w", err)
	}
	switch alg {
	case SigningAESCMAC:
		s.pool.New = func() any { return &signScratch{cmac: newCMAC(chain)} }
	case SigningAESGMAC:
		if s.gcm, err = cipher.NewGCM(chain.block); err != nil {
			return nil, fmt.Errorf("smb2: signing key: %w", err)
		}
		s.pool.New = func() any { return new(signScratch) }
	default:
		return nil, fmt.Errorf("smb2: unknown signing algorithm %d", alg)
	}
	return s, nil
}

// Algorithm is what the signer was made with.
func (s *Signer) Algorithm() SigningAlgorithm { return s.alg }

// Sign sets SMB2_FLAGS_SIGNED in msg, one message from its header on with the
// padding to the next one of a compound included, and puts the signature into
// its header (MS-SMB2 3.1.4.1). msg is at least a header long; a shorter one is
// left alone, since there is nothing to sign.
func (s *Signer) Sign(msg []byte) { s.SignParts(msg, nil) }

// SignParts is Sign for a message whose tail lies elsewhere: head starts with the
// header, and rest follows head directly on the wire. HMAC and CMAC read both in
// place; GMAC gathers them in a buffer first.
func (s *Signer) SignParts(head, rest []byte) {
	if len(head) < HeaderSize {
		return
	}
	flags := binary.LittleEndian.Uint32(head[signFlagsAt:])
	binary.LittleEndian.PutUint32(head[signFlagsAt:], flags|uint32(FlagSigned))
	st := s.pool.Get().(*signScratch)
	s.sum(st, head, rest)
	copy(head[signSignatureAt:HeaderSize], st.tag[:])
	s.pool.Put(st)
}

// Verify reports whether msg carries the signature that its content and the key
// call for, in time that does not depend on the answer. A message that is not
// marked as signed, or is shorter than a header, never verifies. While Verify
// runs, nothing else may read msg: its signature field may be cleared and put back.
func (s *Signer) Verify(msg []byte) bool { return s.VerifyParts(msg, nil) }

// VerifyParts is Verify for a message whose tail lies elsewhere, as SignParts has it.
func (s *Signer) VerifyParts(head, rest []byte) bool {
	if len(head) < HeaderSize || binary.LittleEndian.Uint32(head[signFlagsAt:])&uint32(FlagSigned) == 0 {
		return false
	}
	st := s.pool.Get().(*signScratch)
	s.sum(st, head, rest)
	ok := subtle.ConstantTimeCompare(st.tag[:signatureSize], head[signSignatureAt:HeaderSize]) == 1
	s.pool.Put(st)
	return ok
}

// sum leaves the signature of head and rest in st.tag.
func (s *Signer) sum(st *signScratch, head, rest []byte) {
	if s.alg == SigningAESGMAC {
		s.sumGMAC(st, head, rest)
		return
	}
	copy(st.head[:signSignatureAt], head)
	clear(st.head[signSignatureAt:])
	if s.alg == SigningHMACSHA256 {
		st.hmac.Reset()
		st.hmac.Write(st.head[:])
		st.hmac.Write(head[HeaderSize:])
		st.hmac.Write(rest)
		st.hmac.Sum(st.tag[:0])
		return
	}
	st.cmac.reset()
	st.cmac.write(st.head[:])
	st.cmac.write(head[HeaderSize:])
	st.cmac.write(rest)
	st.cmac.sum((*[16]byte)(st.tag[:16]))
}

// sumGMAC computes AES-GMAC (RFC 4543): GCM over no plaintext, the message as
// associated data. The nonce is the MessageId, the sender's role and whether the
// message is a CANCEL request, all of which the header says (MS-SMB2 3.1.4.1).
func (s *Signer) sumGMAC(st *signScratch, head, rest []byte) {
	copy(st.nonce[:8], head[signMessageIDAt:])
	var role uint32
	if binary.LittleEndian.Uint32(head[signFlagsAt:])&uint32(FlagServerToRedir) != 0 {
		role = 1
	} else if binary.LittleEndian.Uint16(head[signCommandAt:]) == uint16(CommandCancel) {
		role = 2
	}
	binary.LittleEndian.PutUint32(st.nonce[8:], role)

	msg := head
	if len(rest) > 0 {
		st.gather = append(append(st.gather[:0], head...), rest...)
		msg = st.gather
	}
	old := [signatureSize]byte(msg[signSignatureAt:HeaderSize])
	clear(msg[signSignatureAt:HeaderSize])
	s.gcm.Seal(st.tag[:0], st.nonce[:], nil, msg)
	copy(msg[signSignatureAt:], old[:])
}
