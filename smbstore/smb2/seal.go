package smb2

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// Cipher is an encryption algorithm (MS-SMB2 2.2.3.1.2).
type Cipher uint16

const (
	CipherNone      Cipher = 0
	CipherAES128CCM Cipher = 1 // what 3.0 and 3.0.2 use
	CipherAES128GCM Cipher = 2
	CipherAES256CCM Cipher = 3
	CipherAES256GCM Cipher = 4
)

// String is the cipher's usual name.
func (c Cipher) String() string {
	switch c {
	case CipherNone:
		return "none"
	case CipherAES128CCM:
		return "AES-128-CCM"
	case CipherAES128GCM:
		return "AES-128-GCM"
	case CipherAES256CCM:
		return "AES-256-CCM"
	case CipherAES256GCM:
		return "AES-256-GCM"
	}
	return fmt.Sprintf("cipher %d", uint16(c))
}

// keySize is the cipher's key length in bytes.
func (c Cipher) keySize() int {
	if c == CipherAES256CCM || c == CipherAES256GCM {
		return 32
	}
	return 16
}

// nonceSize is how many bytes of the header's Nonce field the cipher uses.
func (c Cipher) nonceSize() int {
	if c == CipherAES128CCM || c == CipherAES256CCM {
		return 11
	}
	return 12
}

// The TRANSFORM_HEADER that precedes an encrypted message (MS-SMB2 2.2.41).
const (
	// TransformHeaderSize is the headroom a buffer needs in front of a message
	// that will be sealed.
	TransformHeaderSize = 52
	// SealTailroom is the spare capacity a buffer should have behind the message:
	// crypto/cipher's AEADs want the tag there, the protocol has it in the header.
	// Without it sealing and opening allocate and copy.
	SealTailroom = 16

	transformTagAt     = 4
	transformNonceAt   = 20
	transformSizeAt    = 36
	transformFlagsAt   = 42
	transformSessionAt = 44
	transformEncrypted = 1
)

var (
	// ErrTransform is wrapped by every error about a malformed TRANSFORM_HEADER.
	ErrTransform = errors.New("smb2: malformed transform header")
	// ErrDecrypt means that a message was not sealed with this key, or was altered.
	ErrDecrypt = errors.New("smb2: message does not decrypt")
	// ErrNonces means that a key has sealed all the messages it may.
	ErrNonces = errors.New("smb2: encryption key is used up")
)

// IsTransform reports whether buf begins with the TRANSFORM_HEADER's protocol id.
func IsTransform(buf []byte) bool {
	return len(buf) >= 4 && binary.LittleEndian.Uint32(buf) == ProtocolTransform
}

// TransformSession checks the TRANSFORM_HEADER that buf, one whole received
// message, starts with, and returns the session it names, whose key opens it
// (MS-SMB2 3.3.5.2.1.1). Errors wrap ErrTransform.
func TransformSession(buf []byte) (sessionID uint64, err error) {
	switch {
	case len(buf) < TransformHeaderSize+HeaderSize:
		return 0, fmt.Errorf("%w: message of %d bytes", ErrTransform, len(buf))
	case !IsTransform(buf):
		return 0, fmt.Errorf("%w: protocol id %x", ErrTransform, buf[:4])
	}
	if f := binary.LittleEndian.Uint16(buf[transformFlagsAt:]); f != transformEncrypted {
		return 0, fmt.Errorf("%w: flags %#x", ErrTransform, f)
	}
	size := binary.LittleEndian.Uint32(buf[transformSizeAt:])
	if uint64(size) != uint64(len(buf)-TransformHeaderSize) {
		return 0, fmt.Errorf("%w: original size %d, but %d bytes follow", ErrTransform, size, len(buf)-TransformHeaderSize)
	}
	return binary.LittleEndian.Uint64(buf[transformSessionAt:]), nil
}

// aead is what sealer and opener share: the keyed cipher, and scratch space that
// has to live on the heap because cipher.AEAD hides what it keeps.
type aead struct {
	cipher Cipher
	gcm    cipher.AEAD // GCM only
	pool   sync.Pool   // *sealScratch
}

type sealScratch struct {
	ccm *ccm // CCM only
	tag [16]byte
}

func (a *aead) init(c Cipher, key []byte) error {
	if c < CipherAES128CCM || c > CipherAES256GCM {
		return fmt.Errorf("smb2: unknown cipher %d", c)
	}
	if len(key) != c.keySize() {
		return fmt.Errorf("smb2: %v key of %d bytes, want %d", c, len(key), c.keySize())
	}
	chain, err := newAESChain(key)
	if err != nil {
		return fmt.Errorf("smb2: %v key: %w", c, err)
	}
	a.cipher = c
	if c.nonceSize() == 11 {
		a.pool.New = func() any { return &sealScratch{ccm: newCCM(chain)} }
		return nil
	}
	a.pool.New = func() any { return new(sealScratch) }
	if a.gcm, err = cipher.NewGCM(chain.block); err != nil {
		return fmt.Errorf("smb2: %v key: %w", c, err)
	}
	return nil
}

// Sealer encrypts the messages one side of a session sends. The channels of a
// session share one: its nonce counter must never restart under the same key.
// Safe for concurrent use; allocates nothing once its pool is warm.
type Sealer struct {
	aead
	session uint64
	nonce   atomic.Uint64
}

// NewSealer makes a sealer from SessionKeys.Encryption.
func NewSealer(c Cipher, key []byte, sessionID uint64) (*Sealer, error) {
	s := &Sealer{session: sessionID}
	if err := s.init(c, key); err != nil {
		return nil, err
	}
	return s, nil
}

// Seal encrypts buf[TransformHeaderSize:], one message or compound, where it
// lies, and writes the TRANSFORM_HEADER in front of it; buf is then what goes on
// the wire. The SealTailroom bytes of capacity behind buf are overwritten. Errors
// are ErrNonces, and ErrTransform for a size the header cannot state.
func (s *Sealer) Seal(buf []byte) error {
	if len(buf) < TransformHeaderSize {
		return fmt.Errorf("%w: no room for it in %d bytes", ErrTransform, len(buf))
	}
	return s.SealTo(buf, buf[TransformHeaderSize:])
}

// SealTo encrypts msg into dst, which has len(msg)+TransformHeaderSize bytes.
// msg either begins exactly at dst[TransformHeaderSize:] or does not overlap dst.
func (s *Sealer) SealTo(dst, msg []byte) error {
	if len(dst) != TransformHeaderSize+len(msg) || uint64(len(msg)) > math.MaxUint32 {
		return fmt.Errorf("%w: message of %d bytes into %d", ErrTransform, len(msg), len(dst))
	}
	n := s.nonce.Add(1)
	if n == math.MaxUint64 { // stay there: the counter must not come round
		s.nonce.Store(math.MaxUint64 - 1)
		return ErrNonces
	}
	h := dst[:TransformHeaderSize]
	clear(h)
	binary.LittleEndian.PutUint32(h, ProtocolTransform)
	binary.LittleEndian.PutUint64(h[transformNonceAt:], n)
	binary.LittleEndian.PutUint32(h[transformSizeAt:], uint32(len(msg)))
	binary.LittleEndian.PutUint16(h[transformFlagsAt:], transformEncrypted)
	binary.LittleEndian.PutUint64(h[transformSessionAt:], s.session)
	nonce, aad := h[transformNonceAt:][:s.cipher.nonceSize()], h[transformNonceAt:]

	if s.gcm == nil {
		st := s.pool.Get().(*sealScratch)
		st.ccm.seal(dst[TransformHeaderSize:], msg, nonce, aad, &st.tag)
		copy(h[transformTagAt:], st.tag[:])
		s.pool.Put(st)
		return nil
	}
	sealed := s.gcm.Seal(dst[TransformHeaderSize:TransformHeaderSize], nonce, msg, aad)
	if cap(dst)-len(dst) < SealTailroom { // then Seal went to memory of its own
		copy(dst[TransformHeaderSize:], sealed[:len(msg)])
	}
	copy(h[transformTagAt:], sealed[len(msg):])
	return nil
}

// Opener decrypts the messages one side of a session receives. Safe for
// concurrent use; allocates nothing once its pool is warm.
type Opener struct{ aead }

// NewOpener makes an opener from SessionKeys.Decryption.
func NewOpener(c Cipher, key []byte) (*Opener, error) {
	o := new(Opener)
	if err := o.init(c, key); err != nil {
		return nil, err
	}
	return o, nil
}

// Open decrypts buf, a TRANSFORM_HEADER and what follows it, where it lies, and
// returns the message: buf[TransformHeaderSize:]. The SealTailroom bytes of
// capacity behind buf are overwritten. Errors are ErrDecrypt, after which buf's
// content is undefined, or wrap ErrTransform. Which session's key it takes is
// the caller's business: TransformSession.
func (o *Opener) Open(buf []byte) ([]byte, error) {
	if _, err := TransformSession(buf); err != nil {
		return nil, err
	}
	return o.OpenTo(buf[TransformHeaderSize:], buf)
}

// OpenTo decrypts buf into dst, which has len(buf)-TransformHeaderSize bytes and
// either is exactly buf[TransformHeaderSize:] or does not overlap buf. The tail
// room behind buf is used as in Open. It returns dst.
func (o *Opener) OpenTo(dst, buf []byte) ([]byte, error) {
	if _, err := TransformSession(buf); err != nil {
		return nil, err
	}
	if len(dst) != len(buf)-TransformHeaderSize {
		return nil, fmt.Errorf("%w: message of %d bytes into %d", ErrTransform, len(buf)-TransformHeaderSize, len(dst))
	}
	h, body := buf[:TransformHeaderSize], buf[TransformHeaderSize:]
	nonce, aad := h[transformNonceAt:][:o.cipher.nonceSize()], h[transformNonceAt:]
	if o.gcm == nil {
		st := o.pool.Get().(*sealScratch)
		ok := st.ccm.open(dst, body, nonce, aad, (*[16]byte)(h[transformTagAt:]))
		o.pool.Put(st)
		if !ok {
			return nil, ErrDecrypt
		}
		return dst, nil
	}
	tagged := append(body, h[transformTagAt:transformNonceAt]...)
	in := dst[:0]
	if cap(buf)-len(buf) < SealTailroom && &dst[0] == &body[0] {
		in = tagged[:0] // append moved body: decrypt there, since overlap must be exact
	}
	out, err := o.gcm.Open(in, nonce, tagged, aad)
	if err != nil {
		return nil, ErrDecrypt
	}
	if &out[0] != &dst[0] {
		copy(dst, out)
	}
	return dst, nil
}
