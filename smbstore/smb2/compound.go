package smb2

// SplitCompound returns the first message of a frame and what follows it, nil
// after the last (MS-SMB2 3.3.5.2.7). NextCommand must be a multiple of 8 and
// leave room for this header and the next. A message that is not the last
// includes its padding, which its signature covers. It does not allocate.
func SplitCompound(frame []byte) (msg, rest []byte, err error) {
	var h Header
	if err := h.Decode(frame); err != nil {
		return nil, nil, err
	}
	next := uint64(h.NextCommand)
	switch {
	case next == 0:
		return frame, nil, nil
	case next%8 != 0:
		return nil, nil, &DecodeError{What: "header", Field: "NextCommand", Err: ErrAlignment}
	case next < HeaderSize || next+HeaderSize > uint64(len(frame)):
		return nil, nil, &DecodeError{What: "header", Field: "NextCommand", Err: ErrBounds}
	}
	return frame[:next:next], frame[next:], nil
}

// LinkCompound makes room for one more message in a compound: it pads the
// message that begins at last in frame and ends with it to a multiple of 8, sets
// its NextCommand, and returns the frame; the next message begins at its end.
// The message must not be signed yet.
func LinkCompound(frame []byte, last int) []byte {
	n := Align8(len(frame) - last)
	var zero [7]byte
	frame = append(frame, zero[:last+n-len(frame)]...)
	le.PutUint32(frame[last+20:], uint32(n))
	return frame
}

// AppendMessage appends a message to a frame: header and body, without the
// payload that READ responses and WRITE requests leave to the caller.
func AppendMessage(frame []byte, h *Header, m Message) []byte {
	start, n := len(frame), m.Size()
	if cap(frame)-start >= n {
		frame = frame[:start+n]
	} else {
		frame = append(frame, make([]byte, n)...)
	}
	h.Encode(frame[start:])
	m.Encode(frame[start:])
	return frame
}
