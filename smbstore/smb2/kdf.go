package smb2

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// SessionKeys are the keys of one authenticated session, or of one channel of
// it, as one side uses them (MS-SMB2 3.2.5.3.1, 3.3.5.5.3).
type SessionKeys struct {
	Signing     []byte // 16 bytes; both directions
	Application []byte // 16 bytes, nil before 3.0; for what runs above SMB
	Encryption  []byte // what this side sends; nil before 3.0
	Decryption  []byte // what this side receives; nil before 3.0
}

// KeyInput is what session keys are derived from.
type KeyInput struct {
	Dialect  Dialect
	Cipher   Cipher       // negotiated cipher; 0 if none. Before 3.1.1 it is always AES-128-CCM
	Key      []byte       // the key GSS established, in full
	Preauth  *PreauthHash // the session's chain, 3.1.1 only
	IsServer bool
}

// The labels and contexts of MS-SMB2 3.3.5.5.3, with the terminating nulls that
// count as part of them.
const (
	label300Signing = "SMB2AESCMAC\x00"
	label300App     = "SMB2APP\x00"
	label300Cipher  = "SMB2AESCCM\x00"

	context300Signing = "SmbSign\x00"
	context300App     = "SmbRpc\x00"
	context300C2S     = "ServerIn \x00"
	context300S2C     = "ServerOut\x00"

	label311Signing = "SMBSigningKey\x00"
	label311App     = "SMBAppKey\x00"
	label311C2S     = "SMBC2SCipherKey\x00"
	label311S2C     = "SMBS2CCipherKey\x00"
)

// Derive computes the session's keys. Dialects before 3.0 sign with the session
// key itself and have no other keys. A nil Preauth counts as the zero hash.
func (in KeyInput) Derive() SessionKeys {
	session := make([]byte, 16) // first 16 bytes, right-padded with zeros (3.3.1.8)
	copy(session, in.Key)
	if in.Dialect < Dialect300 {
		return SessionKeys{Signing: session}
	}
	k := deriver{key: session, cipherKey: session, size: 16}
	if in.Dialect < Dialect311 {
		return k.keys(in.IsServer,
			[2]string{label300Signing, context300Signing}, [2]string{label300App, context300App},
			[2]string{label300Cipher, context300C2S}, [2]string{label300Cipher, context300S2C})
	}
	if in.Cipher.keySize() == 32 {
		k.cipherKey, k.size = in.Key, 32
	}
	var hash PreauthHash
	if in.Preauth != nil {
		hash = *in.Preauth
	}
	h := string(hash[:])
	return k.keys(in.IsServer,
		[2]string{label311Signing, h}, [2]string{label311App, h},
		[2]string{label311C2S, h}, [2]string{label311S2C, h})
}

// deriver carries what the derivations of one session share.
type deriver struct {
	key       []byte // for signing and application keys
	cipherKey []byte // for cipher keys: the full key with 256-bit ciphers
	size      int    // bytes of a cipher key
}

// keys derives all four keys from their label and context pairs. Signing and
// application keys have 128 bits with every cipher, as peers have it, although
// MS-SMB2 3.1.4.2 reads as if L followed the cipher for them too.
func (k deriver) keys(server bool, sign, app, c2s, s2c [2]string) SessionKeys {
	out := SessionKeys{
		Signing:     DeriveKey(k.key, sign[0], sign[1], 16),
		Application: DeriveKey(k.key, app[0], app[1], 16),
		Encryption:  DeriveKey(k.cipherKey, c2s[0], c2s[1], k.size),
		Decryption:  DeriveKey(k.cipherKey, s2c[0], s2c[1], k.size),
	}
	if server {
		out.Encryption, out.Decryption = out.Decryption, out.Encryption
	}
	return out
}

// DeriveKey is the KDF of NIST SP 800-108 5.1 in counter mode with HMAC-SHA256,
// r = 32 and L = 8*size (MS-SMB2 3.1.4.2). size is at most 32, one block of the
// PRF. Label and context are taken as they are, terminating nulls included.
func DeriveKey(key []byte, label, context string, size int) []byte {
	var n [4]byte
	mac := hmac.New(sha256.New, key)
	binary.BigEndian.PutUint32(n[:], 1)
	mac.Write(n[:])
	mac.Write([]byte(label))
	mac.Write([]byte{0})
	mac.Write([]byte(context))
	binary.BigEndian.PutUint32(n[:], uint32(size)*8)
	mac.Write(n[:])
	return mac.Sum(nil)[:min(size, sha256.Size)]
}
