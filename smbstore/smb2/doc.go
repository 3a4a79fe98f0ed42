// Package smb2 is the SMB 2 and 3 wire protocol (MS-SMB2): messages, contexts,
// signing and encryption. It does no I/O, starts no goroutines and holds no
// policy; it works on memory its caller owns.
//
// A message is one SMB2 header and the body that follows it; offsets inside a
// body count from the header's first byte (MS-SMB2 2.2). Every message type
// follows one contract, with msg starting at the header:
//
//	Size() int                 bytes of header and body, payloads included unless noted
//	Encode(msg []byte)         writes the body into msg[HeaderSize:Size()]; the caller encodes the Header
//	Decode(msg []byte) error   reads the body; every offset and count is checked here once,
//	                           so that accessors cannot fail. Byte slices in the result are
//	                           views of msg, valid as long as msg is.
//
// READ responses and WRITE requests keep their payload outside the struct: Size
// is the fixed part, and the payload follows it directly in what we send.
//
// A decoding error is a *DecodeError. Names are Go strings, WTF-8 where they hold
// surrogates without a partner (see EncodeUTF16). Encode overwrites every byte up
// to Size, so that the memory may hold an older message; memory that is shorter
// is a mistake of the caller and panics.
package smb2
