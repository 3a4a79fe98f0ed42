package smb2

import "crypto/sha512"

// PreauthHash is the SHA-512 pre-authentication integrity value of SMB 3.1.1
// (MS-SMB2 3.1.1.1, 3.3.5.4, 3.3.5.5). The zero value is the chain's start.
//
// A connection's chain takes the NEGOTIATE request and response; a session's
// chain starts as a copy of it and takes every SESSION_SETUP request and
// response but the final successful response.
type PreauthHash [sha512.Size]byte

// Update extends the chain by one message as it went over the wire, from its
// SMB2 header on: no transport length in front.
func (h *PreauthHash) Update(msg []byte) {
	d := sha512.New()
	d.Write(h[:])
	d.Write(msg)
	d.Sum(h[:0])
}
