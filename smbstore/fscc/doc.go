// Package fscc is what SMB2 carries about files: the information classes and
// control codes of MS-FSCC, and the security identifiers, descriptors and
// access checks of MS-DTYP. It does no I/O and holds no policy.
//
// Every structure follows one contract, with buffers that start at the
// structure's first byte:
//
//	Size() int               bytes Encode writes
//	Encode(dst []byte)       writes dst[:Size()]; reserved fields and padding become zero.
//	                         dst must hold Size() bytes
//	Decode(b []byte) error   checks every offset and count once; ErrTruncated or ErrInvalid.
//	                         Byte slices in the result are views of b
//
// Decode ignores bytes after a structure of fixed size, as servers do with
// longer buffers than a class needs. Names are Go strings in the form
// DecodeUTF16 gives them.
package fscc
