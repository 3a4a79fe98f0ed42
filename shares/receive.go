package shares

import (
	"encoding/binary"
	"errors"
	"io"

	"lunless/smbstore/smb2"
)

const (
	receiveStart = 12 << 10  // of a fresh connection's receive buffer
	receiveSize  = 128 << 10 // of one that has been filled, where no large frames are about
	smallFrame   = 68 << 10  // larger frames own the buffer they arrive in
	maxUnauth    = 68 << 10  // largest frame before a session is authenticated
	frameMargin  = 128 << 10 // headers, padding and transforms around the largest transfer
	forgetLarge  = 64        // buffers after which we no longer expect a large frame
	keepAliveTag = 0x85      // NetBIOS session keep-alive: no data (RFC 1002 4.3.6)
)

var errFrame = errors.New("not a Direct TCP frame")

// receiver takes frames off a stream. It reads as much as the socket gives into
// one buffer and hands out complete frames from it, without copying them. A
// large frame is read exactly, so that its buffer can be given away whole.
type receiver struct {
	src  io.Reader
	buf  *buffer // data is buf.b[r:w], over the buffer's whole capacity but for a margin
	r, w int
	max  int // largest frame accepted

	large int  // size of a large frame seen not long ago, else 0
	since int  // buffers filled since then
	busy  bool // the buffer was filled to the brim: there is more where that came from
}

func newReceiver(src io.Reader) receiver {
	return receiver{src: src, buf: getBuffer(receiveStart), max: maxUnauth}
}

// room is what of the buffer holds data: opening a sealed frame in place uses a
// few bytes behind it.
func (in *receiver) room() []byte {
	b := in.buf.b[:cap(in.buf.b)]
	return b[:len(b)-smb2.SealTailroom]
}

// pending is the length of the frame at the front, header included: 0 as long
// as that is not known.
func (in *receiver) pending() (int, error) {
	if in.w-in.r < frameHeader {
		return 0, nil
	}
	h := binary.BigEndian.Uint32(in.room()[in.r:])
	if h>>24 == keepAliveTag && h&maxFrame == 0 {
		return frameHeader, nil
	}
	if h>>24 != 0 || int(h) > in.max {
		return 0, errFrame
	}
	return frameHeader + int(h), nil
}

// next returns the next frame if all of it is there, else nil. The frame is good
// until fill or detach.
func (in *receiver) next() ([]byte, error) {
	for {
		n, err := in.pending()
		if err != nil || n == 0 || in.w-in.r < n {
			return nil, err
		}
		frame := in.buf.b[:cap(in.buf.b)][in.r+frameHeader : in.r+n]
		in.r += n
		if len(frame) > 0 {
			return frame, nil
		}
	}
}

// fill reads once. What next returned before is no longer good.
func (in *receiver) fill() error {
	need, err := in.pending()
	if err != nil {
		return err
	}
	in.makeRoom(need)
	end := len(in.room())
	if need > smallFrame {
		end = in.r + need // no byte of the next frame: the buffer leaves with this one
		in.large, in.since = need, 0
	}
	n, err := in.src.Read(in.room()[in.w:end])
	in.w += n
	if n > 0 {
		in.busy = in.w == len(in.room())
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// makeRoom lets a frame of need bytes, or at least some, be read behind what is there.
func (in *receiver) makeRoom(need int) {
	if in.r == in.w {
		in.r, in.w = 0, 0
		if in.since++; in.since > forgetLarge && in.large > 0 {
			in.large = 0
			if cap(in.buf.b) > 2*receiveSize {
				in.replace(receiveSize)
			}
		}
	}
	if in.busy && cap(in.buf.b) < receiveSize {
		in.replace(receiveSize)
	}
	if in.r+need <= len(in.room()) && in.w < len(in.room()) {
		return
	}
	if need+smb2.SealTailroom > cap(in.buf.b) {
		in.replace(need + smb2.SealTailroom)
		return
	}
	b := in.room()
	in.w = copy(b, b[in.r:in.w])
	in.r = 0
}

// replace moves what is there to a buffer of at least n bytes.
func (in *receiver) replace(n int) {
	b := getBuffer(n)
	full := b.b[:cap(b.b)]
	in.w = copy(full, in.room()[in.r:in.w])
	in.r = 0
	in.buf.release()
	in.buf = b
}

// detach makes the frame that next has just returned independent of the
// receiver: its buffer, with the frame in it, belongs to the caller.
func (in *receiver) detach(frame []byte) (*buffer, []byte) {
	if len(frame) <= smallFrame || in.r != in.w {
		b := getBuffer(len(frame) + smb2.SealTailroom)
		b.b = append(b.b, frame...)
		return b, b.b
	}
	b := in.buf
	in.buf, in.r, in.w = getBuffer(max(receiveSize, in.large+smb2.SealTailroom)), 0, 0
	return b, frame
}

func (in *receiver) close() {
	in.buf.release()
	in.buf = nil
}
