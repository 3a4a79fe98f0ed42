package smb2

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
)

// aesChain is AES as CMAC and CCM use it: one block after the other, each needing
// the last one's result. crypto/aes takes a call a block, which costs a third of
// the time; where there is assembly it keeps the chain in a register, and runs
// CCM's counter mode in the slots that the chain's latency leaves free.
// It is not changed by use.
type aesChain struct {
	block  cipher.Block
	keys   [60]uint32 // key schedule, words as they lie in memory; empty without assembly
	rounds int        // 10 or 14; 0 without assembly
}

func newAESChain(key []byte) (*aesChain, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	c := &aesChain{block: block}
	c.schedule(key)
	return c, nil
}

// macGeneric chains the whole blocks of p into x: CBC-MAC.
func (c *aesChain) macGeneric(x *[16]byte, p []byte) {
	for ; len(p) >= 16; p = p[16:] {
		subtle.XORBytes(x[:], x[:], p[:16])
		c.block.Encrypt(x[:], x[:])
	}
}

// sealGeneric does CCM over the whole blocks of src into dst: MAC chain in x,
// counter mode from the counter after ctr's on, which it advances. key is scratch.
func (c *aesChain) sealGeneric(x, ctr, key *[16]byte, dst, src []byte) {
	for ; len(src) >= 16; dst, src = dst[16:], src[16:] {
		c.macGeneric(x, src[:16])
		c.nextKey(ctr, key)
		subtle.XORBytes(dst[:16], src[:16], key[:])
	}
}

// openGeneric is sealGeneric's inverse: the MAC is over what it decrypts.
func (c *aesChain) openGeneric(x, ctr, key *[16]byte, dst, src []byte) {
	for ; len(src) >= 16; dst, src = dst[16:], src[16:] {
		c.nextKey(ctr, key)
		subtle.XORBytes(dst[:16], src[:16], key[:])
		c.macGeneric(x, dst[:16])
	}
}

// nextKey counts up and makes the next block of key stream.
func (c *aesChain) nextKey(ctr, key *[16]byte) {
	n := ctr[1+ccmNonceSize:]
	binary.BigEndian.PutUint32(n, binary.BigEndian.Uint32(n)+1)
	c.block.Encrypt(key[:], ctr[:])
}
