package smb2

import "lunless/smbstore/fscc"

// Names travel as UTF-16LE and live here as Go strings, surrogates without a
// partner as WTF-8, so that EncodeUTF16(DecodeUTF16(b)) is b for every b of even
// length. fscc says how.

// SizeUTF16 is the number of bytes EncodeUTF16 writes for s.
func SizeUTF16(s string) int { return fscc.UTF16Len(s) }

// EncodeUTF16 writes s as UTF-16LE, without a terminator, into dst, which must
// hold SizeUTF16(s) bytes, and returns their number.
func EncodeUTF16(dst []byte, s string) int { return fscc.PutUTF16(dst, s) }

// AppendUTF16 appends s as UTF-16LE to dst.
func AppendUTF16(dst []byte, s string) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, SizeUTF16(s))...)
	EncodeUTF16(dst[n:], s)
	return dst
}

// DecodeUTF16 reads UTF-16LE. An odd last byte is left out; who cares checks
// the length before.
func DecodeUTF16(b []byte) string { return fscc.DecodeUTF16(b) }
