package smb2

import (
	"bytes"
	"testing"
)

// The keys of Microsoft's walk-through of SMB 3.0 and 3.1.1 key computation
// (Open Specifications blog, 26 May 2017). It names them as the client does.
func TestSessionKeyVectors(t *testing.T) {
	preauth := PreauthHash(cryptoHex(t, `0DD13628CC3ED218EF9DF9772D436D0887AB9814BFAE63A80AA845F36909DB79
		28622DDDAD522D9751640A459762C5A9D6BB084CBB3CE6BDADEF5D5BCE3C6C01`))
	for name, tc := range map[string]struct {
		in                                           KeyInput
		signing, encryption, decryption, application string
	}{
		"3.0": {KeyInput{Dialect: Dialect300, Cipher: CipherAES128CCM, Key: cryptoHex(t, "7CD451825D0450D235424E44BA6E78CC")},
			"0B7E9C5CAC36C0F6EA9AB275298CEDCE", "FAD27796665B313EBB578F388632B4F7", "B0F0427F7CEB416D1D9DCC0CD4F99447", "BB23A4575AA26C721AF525AF15A87B4F"},
		"3.1.1": {KeyInput{Dialect: Dialect311, Cipher: CipherAES128GCM, Key: cryptoHex(t, "270E1BA896585EEB7AF3472D3B4C75A7"), Preauth: &preauth},
			"73FE7A9A77BEF0BDE49C650D8CCB5F76", "629BCBC54422A0F572B97F45989B6073", "E2AF0DCEFAC68DA71A0DFBD0D1350D74", "6D7AD7954E9EC61E907B4D473DC178FF"},
	} {
		tc.in.IsServer = true
		server := tc.in.Derive()
		tc.in.IsServer = false
		client := tc.in.Derive()
		for what, pair := range map[string]struct {
			got  []byte
			want string
		}{
			"signing": {server.Signing, tc.signing}, "application": {server.Application, tc.application},
			"server's encryption": {server.Encryption, tc.decryption}, "server's decryption": {server.Decryption, tc.encryption},
			"client's signing": {client.Signing, tc.signing}, "client's encryption": {client.Encryption, tc.encryption},
			"client's decryption": {client.Decryption, tc.decryption},
		} {
			if !bytes.Equal(pair.got, cryptoHex(t, pair.want)) {
				t.Errorf("%s, %s: %X, want %s", name, what, pair.got, pair.want)
			}
		}
	}
}

// The last SESSION_SETUP response of the same walk-through, signed with AES-CMAC.
func TestSessionSetupSignatureVector(t *testing.T) {
	s, err := NewSigner(SigningAESCMAC, cryptoHex(t, "73FE7A9A77BEF0BDE49C650D8CCB5F76"))
	if err != nil {
		t.Fatal(err)
	}
	msg := cryptoHex(t, `FE534D4240000100000000000100800009000000000000000300000000000000FFFE000000000000
		1900000000100000EBE146DA120BA25FC3376A49DFE31BC10900000048001D00A11B3019A0030A01
		00A3120410010000003B453CDC3524164200000000`)
	if !s.Verify(msg) {
		t.Error("does not verify")
	}
}

func TestSessionKeySizes(t *testing.T) {
	long := bytes.Repeat([]byte{7}, 32) // as Kerberos gives
	for _, tc := range []struct {
		in            KeyInput
		cipher, other int
	}{
		{KeyInput{Dialect: Dialect202, Key: long}, 0, 0},
		{KeyInput{Dialect: Dialect210, Key: long[:3]}, 0, 0},
		{KeyInput{Dialect: Dialect302, Cipher: CipherAES128CCM, Key: long}, 16, 16},
		{KeyInput{Dialect: Dialect311, Cipher: CipherAES128CCM, Key: long}, 16, 16},
		{KeyInput{Dialect: Dialect311, Cipher: CipherAES256CCM, Key: long}, 32, 16},
		{KeyInput{Dialect: Dialect311, Cipher: CipherAES256GCM, Key: long[:16]}, 32, 16},
		{KeyInput{Dialect: Dialect311, Key: nil}, 16, 16},
	} {
		k := tc.in.Derive()
		if len(k.Signing) != 16 || len(k.Encryption) != tc.cipher || len(k.Decryption) != tc.cipher || len(k.Application) != tc.other {
			t.Errorf("%v, %v: %+v", tc.in.Dialect, tc.in.Cipher, k)
		}
	}
	if k := (KeyInput{Dialect: Dialect210, Key: long[:3]}).Derive(); !bytes.Equal(k.Signing, append(bytes.Clone(long[:3]), make([]byte, 13)...)) {
		t.Errorf("a short key is padded to %x", k.Signing)
	}
	// 256-bit ciphers take the whole key, everything else its first 16 bytes.
	in := KeyInput{Dialect: Dialect311, Cipher: CipherAES256GCM, Key: long}
	whole := in.Derive()
	in.Key = long[:16]
	if half := in.Derive(); bytes.Equal(half.Encryption, whole.Encryption) || !bytes.Equal(half.Signing, whole.Signing) {
		t.Error("which part of the key counts")
	}
}
