//go:build !amd64 || purego

package smb2

func (c *aesChain) schedule([]byte) {}

func (c *aesChain) mac(x *[16]byte, p []byte) { c.macGeneric(x, p) }

func (c *aesChain) seal(x, ctr, key *[16]byte, dst, src []byte) { c.sealGeneric(x, ctr, key, dst, src) }

func (c *aesChain) open(x, ctr, key *[16]byte, dst, src []byte) { c.openGeneric(x, ctr, key, dst, src) }
