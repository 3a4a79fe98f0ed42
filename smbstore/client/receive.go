package client

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"lunless/smbstore/smb2"
)

func nowNano() int64 { return time.Now().UnixNano() }

// notificationID is the MessageId of what no request asked for (MS-SMB2 3.3.4.6).
const notificationID = ^uint64(0)

func (c *conn) readLoop() {
	c.kill(c.receive())
	c.sweep()
}

// receive takes in frames until one is wrong or none come any more.
func (c *conn) receive() error {
	for {
		b, err := c.br.Peek(smb2.FrameHeaderSize + 4)
		if err != nil {
			return err
		}
		n, err := smb2.FrameSize(b)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if n < smb2.HeaderSize || n > c.maxFrame() {
			return protocolError("a frame of %d bytes", n)
		}
		id := smb2.ProtocolID(b[smb2.FrameHeaderSize:])
		_, _ = c.br.Discard(smb2.FrameHeaderSize)
		switch id {
		case smb2.ProtocolSMB2:
			err = c.receivePlain(n)
		case smb2.ProtocolTransform:
			err = c.receiveSealed(n)
		default:
			err = protocolError("a frame that begins with %#x", id)
		}
		if err != nil {
			return err
		}
	}
}

func (c *conn) maxFrame() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.neg.maxFrame
}

// receivePlain takes in a frame that is not encrypted.
func (c *conn) receivePlain(n int) error {
	b, err := c.br.Peek(smb2.HeaderSize)
	if err != nil {
		return err
	}
	var h smb2.Header
	if err := decodeHeader(&h, b); err != nil {
		return err
	}
	if h.NextCommand != 0 || h.MessageID == notificationID {
		frame := c.buffer(n)
		if _, err := io.ReadFull(c.br, frame); err != nil {
			return err
		}
		return c.deliverAll(frame, false)
	}
	k, err := c.claim(&h, false)
	if err != nil {
		return err
	}
	if k == nil {
		_, err := c.br.Discard(n)
		return err
	}
	if err := c.receiveCall(k, n); err != nil {
		k.err = &lostError{err}
		k.finish()
		return err
	}
	k.finish()
	return nil
}

func decodeHeader(h *smb2.Header, b []byte) error {
	if err := h.Decode(b); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if !h.IsResponse() {
		return protocolError("a %v request", h.Command)
	}
	return nil
}

// receiveCall takes in the single response of a frame of n bytes.
func (c *conn) receiveCall(k *call, n int) error {
	if k.dst != nil && k.resp.Status == smb2.StatusSuccess && n >= len(c.head) {
		if _, err := io.ReadFull(c.br, c.head[:]); err != nil {
			return err
		}
		if size := directSize(c.head[:], n); size >= 0 && size <= len(k.dst) {
			if _, err := io.ReadFull(c.br, k.dst[:size]); err != nil {
				return err
			}
			k.n = size
			return c.verify(k, c.head[:], k.dst[:size])
		}
		msg := c.buffer(n)
		copy(msg, c.head[:])
		if _, err := io.ReadFull(c.br, msg[len(c.head):]); err != nil {
			return err
		}
		if err := c.verify(k, msg, nil); err != nil {
			return err
		}
		return k.takeRead(msg)
	}
	k.body = k.small[:min(n, len(k.small))]
	if n > len(k.small) {
		k.body = make([]byte, n)
	}
	if _, err := io.ReadFull(c.br, k.body); err != nil {
		return err
	}
	return c.verify(k, k.body, nil)
}

// directSize is how many bytes of data follow the fixed part of a READ response
// that ends with them; -1 if it is laid out otherwise (MS-SMB2 2.2.20).
func directSize(head []byte, frame int) int {
	size := binary.LittleEndian.Uint32(head[smb2.HeaderSize+4:])
	if binary.LittleEndian.Uint16(head[smb2.HeaderSize:]) != 17 || head[smb2.HeaderSize+2] != smb2.ReadResponseSize ||
		uint64(size) != uint64(frame-smb2.ReadResponseSize) {
		return -1
	}
	return int(size)
}

// takeRead copies the data of a READ response to its place.
func (k *call) takeRead(msg []byte) error {
	var m smb2.ReadResponse
	if err := m.Decode(msg); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if len(m.Data) > len(k.dst) {
		return protocolError("READ of %d bytes gives %d", len(k.dst), len(m.Data))
	}
	k.n = copy(k.dst, m.Data)
	return nil
}

// receiveSealed takes in an encrypted frame (MS-SMB2 3.2.5.1.1.1).
func (c *conn) receiveSealed(n int) error {
	sec := c.sec.Load()
	if sec == nil || sec.opener == nil {
		return protocolError("an encrypted message without a key")
	}
	frame := c.buffer(n)
	if _, err := io.ReadFull(c.br, frame); err != nil {
		return err
	}
	id, err := smb2.TransformSession(frame)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if id != sec.session {
		return protocolError("an encrypted message of session %#x", id)
	}
	msg, err := sec.opener.Open(frame)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSecurity, err)
	}
	return c.deliverAll(msg, true)
}

// buffer is the reader's memory for a frame.
func (c *conn) buffer(n int) []byte {
	if cap(c.frame) < n+smb2.SealTailroom {
		c.frame = make([]byte, n, n+n/4+smb2.SealTailroom)
	}
	return c.frame[:n]
}

// deliverAll takes in the messages of a frame in memory.
func (c *conn) deliverAll(frame []byte, sealed bool) error {
	for len(frame) > 0 {
		msg, rest, err := smb2.SplitCompound(frame)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if err := c.deliver(msg, sealed); err != nil {
			return err
		}
		frame = rest
	}
	return nil
}

func (c *conn) deliver(msg []byte, sealed bool) error {
	var h smb2.Header
	if err := decodeHeader(&h, msg); err != nil {
		return err
	}
	if sealed && h.SessionID != c.sec.Load().session && h.MessageID != notificationID {
		return protocolError("an encrypted message of one session holds one of %#x", h.SessionID)
	}
	if h.MessageID == notificationID {
		return c.notified(&h, msg, sealed)
	}
	k, err := c.claim(&h, sealed)
	if k == nil || err != nil {
		return err
	}
	switch {
	case !sealed:
		err = c.verify(k, msg, nil)
	case len(msg) < smb2.HeaderSize:
		err = protocolError("a message of %d bytes", len(msg))
	}
	switch {
	case err != nil:
	case k.dst != nil && h.Status == smb2.StatusSuccess:
		err = k.takeRead(msg)
	default:
		k.body = append(k.small[:0], msg...)
	}
	if err != nil {
		k.err = &lostError{err}
	}
	k.finish()
	return err
}

// claim finds the request that a response answers, takes in its credits, and makes
// the reader its owner. nil without an error: there is nothing to deliver, since
// the response is an interim one or its caller has gone.
func (c *conn) claim(h *smb2.Header, sealed bool) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.pending[h.MessageID]
	switch {
	case k == nil:
		return nil, protocolError("a %v response to message %d, which waits for none", h.Command, h.MessageID)
	case h.Command != k.hdr.Command:
		return nil, protocolError("a %v response to a %v request", h.Command, k.hdr.Command)
	case k.seal && !sealed:
		return nil, fmt.Errorf("%w: the response to an encrypted %v is not encrypted", ErrSecurity, h.Command)
	}
	if err := c.settle(k, int(h.Credits)); err != nil {
		return nil, err
	}
	if h.Status == smb2.StatusPending {
		if h.IsAsync() {
			k.async = h.AsyncID
		}
		return nil, nil
	}
	delete(c.pending, h.MessageID)
	if !k.state.CompareAndSwap(callWaiting, callTaken) {
		if k.late != nil && h.Status == smb2.StatusSuccess {
			k.dst, k.resp = nil, *h
			k.state.Store(callTaken)
			go k.waitLate()
			return k, nil
		}
		k.free()
		return nil, nil
	}
	k.resp = *h
	return k, nil
}

// waitLate deals with the success of a request whose caller has gone.
func (k *call) waitLate() {
	<-k.done
	if k.err == nil {
		k.late(k.conn, k.body)
	}
	k.free()
}

// verify checks the signature of a response (MS-SMB2 3.2.5.1.3). Where the session
// signs, every response must be signed.
func (c *conn) verify(k *call, head, rest []byte) error {
	sec := c.sec.Load()
	if sec == nil || k.seal {
		return nil
	}
	if !k.sign && k.resp.Flags&smb2.FlagSigned == 0 {
		return nil
	}
	if !sec.signer.VerifyParts(head, rest) {
		return fmt.Errorf("%w: a %v response (%v) with a bad signature", ErrSecurity, k.resp.Command, k.resp.Status)
	}
	return nil
}

// notified takes in an oplock or lease break (MS-SMB2 3.2.5.19); breaks of leases
// are not signed.
func (c *conn) notified(h *smb2.Header, msg []byte, sealed bool) error {
	sec := c.sec.Load()
	if sec == nil || sec.encrypt && !sealed {
		return protocolError("a %v notification", h.Command)
	}
	if !sealed && h.Flags&smb2.FlagSigned != 0 && !sec.signer.Verify(msg) {
		return fmt.Errorf("%w: a %v notification with a bad signature", ErrSecurity, h.Command)
	}
	if h.Command != smb2.CommandOplockBreak {
		return nil
	}
	return sec.owner.client.queueBreak(sec.owner, msg)
}
