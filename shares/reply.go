package shares

import (
	"encoding/binary"

	"lunless/smbstore/smb2"
)

// frameHeader is what Direct TCP puts before each message: a zero byte and the
// length in 24 bits (MS-SMB2 2.1).
const (
	frameHeader = 4
	maxFrame    = 1<<24 - 1
)

// reply builds response frames one after another in a buffer: the frame's
// length, room for a transform header if the frame will be sealed, then one
// response or a compound of them (MS-SMB2 3.3.4.1). It belongs to one goroutine.
type reply struct {
	buf   *buffer
	flush func(frames []byte) // where finished frames go when room is needed; nil: the buffer grows

	frame  int      // where the open frame begins in buf; -1 none
	sealer *session // the open frame will be sealed with this session's key
	parts  []part   // responses of the open frame
	holds  int      // of its responses that notices wait for; see request.holdNotices
}

// part is one response of a frame.
type part struct {
	at     int          // its header in the buffer
	signer *smb2.Signer // nil: not signed
}

// begin opens a frame.
func (p *reply) begin(sealed *session) {
	p.frame, p.sealer, p.parts = len(p.buf.b), sealed, p.parts[:0]
	n := frameHeader
	if sealed != nil {
		n += smb2.TransformHeaderSize
	}
	p.grow(n)
	p.buf.b = p.buf.b[:p.frame+n]
}

// size is that of the open frame so far.
func (p *reply) size() int { return len(p.buf.b) - p.frame }

// next is where the next response's header goes.
func (p *reply) next() int {
	if len(p.parts) == 0 {
		return len(p.buf.b)
	}
	first := p.parts[0].at
	return first + smb2.Align8(len(p.buf.b)-first)
}

// room makes sure that a response of n bytes fits, and returns where it begins.
func (p *reply) room(n int) int {
	p.grow(p.next() - len(p.buf.b) + n)
	return p.next()
}

// grow makes room for n more bytes, and for what sealing needs behind them.
func (p *reply) grow(n int) {
	n += smb2.SealTailroom + 8
	if cap(p.buf.b)-len(p.buf.b) >= n {
		return
	}
	if p.flush != nil && p.frame > 0 {
		p.flush(p.buf.b[:p.frame])
		p.move(p.buf.b[:copy(p.buf.b, p.buf.b[p.frame:])])
		if cap(p.buf.b)-len(p.buf.b) >= n {
			return
		}
	}
	larger := getBuffer(len(p.buf.b) + n)
	larger.b = append(larger.b, p.buf.b...)
	p.buf.release()
	p.buf = larger
}

// move notes that the open frame now begins the buffer.
func (p *reply) move(b []byte) {
	for i := range p.parts {
		p.parts[i].at -= p.frame
	}
	p.buf.b, p.frame = b, 0
}

// add appends the response of r: its header, m, and n bytes of payload that lie
// behind m's place already.
func (p *reply) add(r *request, status smb2.Status, m body, n int) {
	size := m.Size()
	at := p.room(size + n)
	clear(p.buf.b[len(p.buf.b):at])
	b := p.buf.b[:at+size+n]
	if len(p.parts) > 0 {
		prev := p.parts[len(p.parts)-1].at
		binary.LittleEndian.PutUint32(b[prev+20:], uint32(at-prev)) // NextCommand
	}
	clear(b[at : at+size])
	h := r.responseHeader(status)
	h.Encode(b[at:])
	m.Encode(b[at : at+size])
	p.buf.b = b
	p.parts = append(p.parts, part{at: at, signer: r.signer(status)})
}

// responseHeader makes the response's header from the request's (MS-SMB2 3.3.4.1 to 3.3.4.4).
func (r *request) responseHeader(status smb2.Status) smb2.Header {
	h := r.hdr
	h.Status = status
	h.Flags = r.hdr.Flags&(smb2.FlagPriorityMask|smb2.FlagReplayOperation) | smb2.FlagServerToRedir
	h.NextCommand = 0
	h.Signature = [16]byte{}
	h.Credits = r.grant()
	if r.related {
		h.Flags |= smb2.FlagRelatedOperations
	}
	if r.asyncID != 0 {
		h.Flags |= smb2.FlagAsyncCommand
		h.AsyncID = r.asyncID
	}
	return h
}

// signer says whose key signs the response, if any (MS-SMB2 3.3.4.1.1). A sealed
// response is not signed, nor is an interim one.
func (r *request) signer(status smb2.Status) *smb2.Signer {
	ch := r.channel
	if ch == nil || r.reply.sealer != nil || status == smb2.StatusPending {
		return nil
	}
	switch {
	case r.hdr.Flags&smb2.FlagSigned == 0 && !ch.session.signingRequired && !r.sign:
		return nil
	case r.hdr.Command == smb2.CommandSessionSetup && status != smb2.StatusSuccess:
		return ch.session.signer
	}
	return ch.signer
}

// end closes the open frame: signatures, encryption, length. A frame without a
// response vanishes.
func (p *reply) end() error {
	if len(p.parts) == 0 {
		p.cancel()
		return nil
	}
	if len(p.parts) > 1 { // the last response of a compound is padded too (3.3.4.1.3)
		at, end := len(p.buf.b), p.next()
		p.buf.b = p.buf.b[:end]
		clear(p.buf.b[at:])
	}
	frame := p.buf.b[p.frame:]
	for i, q := range p.parts {
		if q.signer != nil {
			end := len(p.buf.b)
			if i+1 < len(p.parts) {
				end = p.parts[i+1].at
			}
			q.signer.Sign(p.buf.b[q.at:end])
		}
	}
	if p.sealer != nil {
		if err := p.sealer.sealer.Seal(frame[frameHeader:]); err != nil {
			p.cancel()
			return err
		}
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-frameHeader))
	p.frame, p.parts = -1, p.parts[:0]
	return nil
}

// cancel takes the open frame back.
func (p *reply) cancel() {
	if p.frame >= 0 {
		p.buf.b = p.buf.b[:p.frame]
	}
	p.frame, p.parts = -1, p.parts[:0]
}

// seal makes the open frame one that will be sealed with the session's key, if
// it can be: nothing is in it yet.
func (p *reply) seal(s *session) {
	if p.sealer == nil && len(p.parts) == 0 && s != nil && s.sealer != nil {
		p.cancel()
		p.begin(s)
	}
}

// lastPart is the last response of the open frame, header and body.
func (p *reply) lastPart() []byte { return p.buf.b[p.parts[len(p.parts)-1].at:] }

// signLast signs the last response now. It must be the last of its frame, and
// nothing else in it: a compound's responses are padded before they are signed.
func (p *reply) signLast() {
	q := &p.parts[len(p.parts)-1]
	if q.signer != nil && len(p.parts) == 1 {
		q.signer.Sign(p.lastPart())
		q.signer = nil
	}
}
