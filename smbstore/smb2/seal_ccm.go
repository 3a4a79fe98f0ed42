package smb2

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
)

// ccm is AES-CCM (RFC 3610, NIST SP 800-38C) with the parameters SMB uses: a
// nonce of 11 bytes, hence a length field of 4, and a tag of 16. One value does
// one message at a time.
type ccm struct {
	block cipher.Block
	mac   [16]byte // CBC-MAC chaining value
	ctr   [16]byte // counter block
	key   [16]byte // key stream block
}

const (
	ccmLengthSize = 4
	ccmNonceSize  = 15 - ccmLengthSize
)

func newCCM(block cipher.Block) *ccm { return &ccm{block: block} }

// seal encrypts src into dst (the same memory or apart) and leaves the tag.
func (c *ccm) seal(dst, src, nonce, aad []byte, tag *[16]byte) {
	c.start(nonce, aad, len(src))
	for len(src) > 0 {
		n := min(len(src), 16)
		c.absorb(src[:n])
		c.nextKey()
		subtle.XORBytes(dst[:n], src[:n], c.key[:n])
		dst, src = dst[n:], src[n:]
	}
	c.finish(tag)
}

// open decrypts src into dst (the same memory or apart) and reports whether the
// tag is right. If it is not, dst is cleared.
func (c *ccm) open(dst, src, nonce, aad []byte, tag *[16]byte) bool {
	c.start(nonce, aad, len(src))
	for out := dst; len(src) > 0; {
		n := min(len(src), 16)
		c.nextKey()
		subtle.XORBytes(out[:n], src[:n], c.key[:n])
		c.absorb(out[:n])
		out, src = out[n:], src[n:]
	}
	var want [16]byte
	c.finish(&want)
	if subtle.ConstantTimeCompare(want[:], tag[:]) != 1 {
		clear(dst)
		return false
	}
	return true
}

// start absorbs block B0 and the associated data (under 0xff00 bytes), and sets
// the counter to A0.
func (c *ccm) start(nonce, aad []byte, size int) {
	const flagAAD, flagTag = 1 << 6, (16 - 2) / 2 << 3
	c.mac = [16]byte{flagTag | ccmLengthSize - 1}
	if len(aad) > 0 {
		c.mac[0] |= flagAAD
	}
	copy(c.mac[1:], nonce[:ccmNonceSize])
	binary.BigEndian.PutUint32(c.mac[1+ccmNonceSize:], uint32(size))
	c.block.Encrypt(c.mac[:], c.mac[:])

	c.ctr = [16]byte{ccmLengthSize - 1}
	copy(c.ctr[1:], nonce[:ccmNonceSize])

	if len(aad) == 0 {
		return
	}
	binary.BigEndian.PutUint16(c.key[:], uint16(len(aad)))
	n := copy(c.key[2:], aad)
	c.absorb(c.key[:2+n])
	for aad = aad[n:]; len(aad) > 0; aad = aad[n:] {
		n = min(len(aad), 16)
		c.absorb(aad[:n])
	}
}

// absorb takes up to a block into the MAC, padded with zeros.
func (c *ccm) absorb(p []byte) {
	subtle.XORBytes(c.mac[:], c.mac[:], p)
	c.block.Encrypt(c.mac[:], c.mac[:])
}

// nextKey counts up and makes the next block of key stream.
func (c *ccm) nextKey() {
	n := c.ctr[1+ccmNonceSize:]
	binary.BigEndian.PutUint32(n, binary.BigEndian.Uint32(n)+1)
	c.block.Encrypt(c.key[:], c.ctr[:])
}

// finish masks the MAC with the key stream of counter 0.
func (c *ccm) finish(tag *[16]byte) {
	clear(c.ctr[1+ccmNonceSize:])
	c.block.Encrypt(c.key[:], c.ctr[:])
	subtle.XORBytes(tag[:], c.mac[:], c.key[:])
}
