package smb2

import (
	"crypto/subtle"
	"encoding/binary"
)

// ccm is AES-CCM (RFC 3610, NIST SP 800-38C) with the parameters SMB uses: a
// nonce of 11 bytes, hence a length field of 4, and a tag of 16. One value does
// one message at a time.
type ccm struct {
	chain *aesChain
	x     [16]byte // CBC-MAC chaining value
	ctr   [16]byte // counter block
	key   [16]byte // key stream block
	pad   [16]byte // a last, partial block
}

const (
	ccmLengthSize = 4
	ccmNonceSize  = 15 - ccmLengthSize
)

func newCCM(chain *aesChain) *ccm { return &ccm{chain: chain} }

// seal encrypts src into dst (the same memory or apart) and leaves the tag.
func (c *ccm) seal(dst, src, nonce, aad []byte, tag *[16]byte) {
	c.start(nonce, aad, len(src))
	full := len(src) &^ 15
	c.chain.seal(&c.x, &c.ctr, &c.key, dst[:full], src[:full])
	if rest := src[full:]; len(rest) > 0 {
		c.absorb(rest)
		c.chain.nextKey(&c.ctr, &c.key)
		subtle.XORBytes(dst[full:], rest, c.key[:len(rest)])
	}
	c.finish(tag)
}

// open decrypts src into dst (the same memory or apart) and reports whether the
// tag is right. If it is not, dst is cleared.
func (c *ccm) open(dst, src, nonce, aad []byte, tag *[16]byte) bool {
	c.start(nonce, aad, len(src))
	full := len(src) &^ 15
	c.chain.open(&c.x, &c.ctr, &c.key, dst[:full], src[:full])
	if rest := src[full:]; len(rest) > 0 {
		c.chain.nextKey(&c.ctr, &c.key)
		subtle.XORBytes(dst[full:], rest, c.key[:len(rest)])
		c.absorb(dst[full:])
	}
	c.finish(&c.pad)
	if subtle.ConstantTimeCompare(c.pad[:], tag[:]) != 1 {
		clear(dst)
		return false
	}
	return true
}

// start absorbs block B0 and the associated data (under 0xff00 bytes), and sets
// the counter to A0.
func (c *ccm) start(nonce, aad []byte, size int) {
	const flagAAD, flagTag = 1 << 6, (16 - 2) / 2 << 3
	c.x = [16]byte{flagTag | ccmLengthSize - 1}
	if len(aad) > 0 {
		c.x[0] |= flagAAD
	}
	copy(c.x[1:], nonce[:ccmNonceSize])
	binary.BigEndian.PutUint32(c.x[1+ccmNonceSize:], uint32(size))
	c.chain.block.Encrypt(c.x[:], c.x[:])

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
	c.pad = [16]byte{}
	copy(c.pad[:], p)
	c.chain.mac(&c.x, c.pad[:])
}

// finish masks the MAC with the key stream of counter 0.
func (c *ccm) finish(tag *[16]byte) {
	clear(c.ctr[1+ccmNonceSize:])
	c.chain.block.Encrypt(c.key[:], c.ctr[:])
	subtle.XORBytes(tag[:], c.x[:], c.key[:])
}
