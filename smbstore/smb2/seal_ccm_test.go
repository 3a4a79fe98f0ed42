package smb2

import (
	"bytes"
	"testing"
)

// AES-CCM with SMB's nonce and tag sizes, from the Wycheproof project's vectors
// (aes_ccm_test.json, ivSize 88, tagSize 128).
var ccmVectors = []struct{ key, nonce, aad, msg, sealed, tag string }{
	{"9d2fa75929612e1213460f998946dcec", "0e948a03dbfa10817e8826", "", "", "", "2f1fa3585b9a11ff47bd486f95572246"},
	{"7a970406a747c2327ecbc8b107a190cd", "99b079de952d60da0d034b", "2f080b2deb6644ef", "", "", "9dca9ba441013ce9fc0ac3dbf414626d"},
	{"acab31483d9de4ad77f4e63fe41b57ae", "5c0939e71bae1a9de167d4", "", "e4d72b2f7cb69bc54a49f4d5cea4f23a",
		"0c506843ba7bd2dc4578e6bb83fd0c8d", "c275373037635bae294f99c8e46964b3"},
	{"82841ef7fbae35546525fbbebf4718fb", "b5cd818f73a36ed025b6cf", "44f48c2a20456358", "8c2c823bb39941b1c6b75bbc82f05ba4",
		"b287c637a7554362c80d6b24d50ddfb3", "3967277da0f856f8f0ad49282894d2bb"},
	{"f9c6d9627fd2e731e2f115b3d0a53bfd", "084558ebfb6582f3d1879a", "", "7463af94626279ce0112f670c3115099fd",
		"d46b6e962b6b7a2352fc437914d9c0d9c0", "ebe336176e27041ae78791aca34548c8"},
	{"1d286e525ec2864d9ea6e7adfbdc4970", "1ad44879f1947abd503dce", "1db0eaaaa1e2c848", "7b40e6c987692d0202cb6f44b423c267dd",
		"84f91f9d35b998598e50feb34dcaa0d260", "ae4e38cc4b730944bc459df85a536f4e"},
	{"46948c6d69845499104d5dc2fae44880cfe7d0bcbcee57efc0133c266b6d2621", "05f715fd0a5603dd84af76", "", "", "", "11e678c0b260c5a3ea70f6a46e4ef436"},
	{"e689eb77a578399fa17a75083d25018ffbb68f24d77a029757541d6539bffbdf", "4a419618b2832de7a4f99b", "ecf46eaca841769f", "", "", "4a2615d2d5f8e97b92743b0ef2f486ab"},
	{"aacb1336d6ee4d96a9a12e5b8f25f04800d4aaba55f379218d64edb3460fe215", "994c191e7a29c0efc1eb4d", "", "7bead5abccc876efb0109e412f06c751",
		"5aa31aa5eb103655b78c4f7bcf08c917", "64e41d31eb0df80adcee328f081c4aeb"},
	{"60d6841e9e6218a2c8605a7794e74fb215dcf3a70a0015d497ed16564f2a83a0", "4c93f591af92f16596554e", "7cb0eb9aa21fe859", "c0d1e635586b0ef835c01479a32175a3",
		"0c266113544d7a901ce721e1ead6d8f9", "8a149eaa05c8722b2663c345a6a5418c"},
	{"9dcde57cec27de6b584db4bd810935bd3b3c4ea8f22a16a7b2a62ef51679a13b", "5c3439bdca457b02b04925", "", "402cb1fd3b0796200d888f7b399235f5b5",
		"43f7d99c1a0e504aadd8f8b2981b4aea52", "958e19b5c14eebd2d25509336aa6d4c2"},
	{"b3a06e00100ffc42dbdd5317f43d2b48f8c11e4bd6e9e3edab58e9944c559278", "f3d24b362bf12b84b8a66a", "0242b5e804a79188", "03b03b45f6f320b99d8158ff8b00f0ad92",
		"d127fd42b2ca4beca9f9ac86b63a1622ef", "8a499aab9e8f4096da603c6ccfb9ac4a"},
}

func TestCCMVectors(t *testing.T) {
	for i, v := range ccmVectors {
		chain, err := newAESChain(cryptoHex(t, v.key))
		if err != nil {
			t.Fatal(err)
		}
		c := newCCM(chain)
		msg, sealed := cryptoHex(t, v.msg), cryptoHex(t, v.sealed)
		nonce, aad, want := cryptoHex(t, v.nonce), cryptoHex(t, v.aad), [16]byte(cryptoHex(t, v.tag))
		var tag [16]byte
		buf := bytes.Clone(msg)
		c.seal(buf, buf, nonce, aad, &tag)
		if !bytes.Equal(buf, sealed) || tag != want {
			t.Errorf("vector %d: %x, tag %x", i, buf, tag)
		}
		if !c.open(buf, buf, nonce, aad, &want) || !bytes.Equal(buf, msg) {
			t.Errorf("vector %d does not open", i)
		}
		want[15] ^= 1
		copy(buf, sealed)
		if c.open(buf, buf, nonce, aad, &want) || !bytes.Equal(buf, make([]byte, len(buf))) {
			t.Errorf("vector %d opens with a wrong tag, or leaves text behind", i)
		}
	}
}
