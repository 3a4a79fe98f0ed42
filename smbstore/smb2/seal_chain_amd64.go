//go:build !purego

package smb2

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/cpu"
)

var haveAESNI = cpu.X86.HasAES && cpu.X86.HasSSE41

// subWord is the S-box on each byte of w (FIPS 197 5.2), in constant time.
//
//go:noescape
func subWord(w uint32) uint32

// macBlocks chains n > 0 blocks at p into x, with AES-128.
//
//go:noescape
func macBlocks(keys *[60]uint32, x *[16]byte, p *byte, n int)

// ccmSealBlocks and ccmOpenBlocks do n > 0 blocks of CCM from src to dst.
//
//go:noescape
func ccmSealBlocks(keys *[60]uint32, rounds int, x, ctr *[16]byte, dst, src *byte, n int)

//go:noescape
func ccmOpenBlocks(keys *[60]uint32, rounds int, x, ctr *[16]byte, dst, src *byte, n int)

// schedule expands the key (FIPS 197 5.2), for keys of 16 and 32 bytes.
func (c *aesChain) schedule(key []byte) {
	n := len(key) / 4
	if !haveAESNI || n != 4 && n != 8 {
		return
	}
	for i := range n {
		c.keys[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	c.rounds = n + 6
	rcon := uint32(1)
	for i := n; i < 4*(c.rounds+1); i++ {
		w := c.keys[i-1]
		switch {
		case i%n == 0:
			w = subWord(bits.RotateLeft32(w, -8)) ^ rcon
			rcon = rcon<<1 ^ rcon>>7*0x11b
		case i%n == 4:
			w = subWord(w)
		}
		c.keys[i] = c.keys[i-n] ^ w
	}
}

func (c *aesChain) mac(x *[16]byte, p []byte) {
	if n := len(p) / 16; n > 0 && c.rounds == 10 {
		macBlocks(&c.keys, x, &p[0], n)
		return
	}
	c.macGeneric(x, p)
}

func (c *aesChain) seal(x, ctr, key *[16]byte, dst, src []byte) {
	n := len(src) / 16
	if n == 0 || c.rounds == 0 {
		c.sealGeneric(x, ctr, key, dst, src)
		return
	}
	_ = dst[16*n-1]
	ccmSealBlocks(&c.keys, c.rounds, x, ctr, &dst[0], &src[0], n)
}

func (c *aesChain) open(x, ctr, key *[16]byte, dst, src []byte) {
	n := len(src) / 16
	if n == 0 || c.rounds == 0 {
		c.openGeneric(x, ctr, key, dst, src)
		return
	}
	_ = dst[16*n-1]
	ccmOpenBlocks(&c.keys, c.rounds, x, ctr, &dst[0], &src[0], n)
}
