package smb2

// FrameHeaderSize is the size of what precedes every frame on TCP, bytes: a zero
// byte and the length of the frame, 24 bits, network order (MS-SMB2 2.1).
const FrameHeaderSize = 4

// MaxFrameSize is the longest frame the length can say, bytes.
const MaxFrameSize = 1<<24 - 1

// PutFrameHeader writes the header of a frame of n bytes, at most MaxFrameSize,
// into b[:FrameHeaderSize].
func PutFrameHeader(b []byte, n int) {
	_ = b[3]
	b[0], b[1], b[2], b[3] = 0, byte(n>>16), byte(n>>8), byte(n)
}

// FrameSize returns the bytes that follow a frame header. ErrValue if the first
// byte is not zero: on a NetBIOS session (RFC 1002 4.3) that is a keep-alive or a
// session request, direct TCP has nothing but zero.
func FrameSize(b []byte) (int, error) {
	if len(b) < FrameHeaderSize {
		return 0, &DecodeError{What: "frame header", Err: ErrTruncated}
	}
	if b[0] != 0 {
		return 0, &DecodeError{What: "frame header", Field: "type", Err: ErrValue}
	}
	return int(b[1])<<16 | int(b[2])<<8 | int(b[3]), nil
}
