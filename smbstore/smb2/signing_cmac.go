package smb2

import "crypto/subtle"

// cmac is AES-CMAC (RFC 4493, NIST SP 800-38B) over one message at a time. Its
// chaining is serial by design.
type cmac struct {
	chain  *aesChain
	k1, k2 [16]byte
	x      [16]byte // chaining value
	last   [16]byte // pending input: what may turn out to be the final block
	n      int      // bytes of last in use
}

func newCMAC(chain *aesChain) *cmac {
	c := &cmac{chain: chain}
	chain.block.Encrypt(c.k1[:], c.k1[:])
	shiftCMACKey(&c.k1)
	c.k2 = c.k1
	shiftCMACKey(&c.k2)
	return c
}

// shiftCMACKey multiplies by x in GF(2^128), without a branch on the key's bits.
func shiftCMACKey(k *[16]byte) {
	msb := k[0] >> 7
	for i := range 15 {
		k[i] = k[i]<<1 | k[i+1]>>7
	}
	k[15] = k[15]<<1 ^ msb*0x87
}

func (c *cmac) reset() { c.x, c.n = [16]byte{}, 0 }

// write takes more of the message. The last 1 to 16 bytes stay pending, since the
// final block is treated differently.
func (c *cmac) write(p []byte) {
	if len(p) == 0 {
		return
	}
	if c.n > 0 {
		n := copy(c.last[c.n:], p)
		c.n += n
		p = p[n:]
		if len(p) == 0 {
			return
		}
		c.chain.mac(&c.x, c.last[:])
	}
	full := (len(p) - 1) &^ 15
	c.chain.mac(&c.x, p[:full])
	c.n = copy(c.last[:], p[full:])
}

// sum writes the tag of everything written since reset.
func (c *cmac) sum(tag *[16]byte) {
	k := &c.k1
	if c.n < 16 {
		k = &c.k2
		clear(c.last[c.n:])
		c.last[c.n] = 0x80
	}
	subtle.XORBytes(c.last[:], c.last[:], k[:])
	c.chain.mac(&c.x, c.last[:])
	*tag = c.x
}
