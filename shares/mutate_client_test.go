package shares

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

// What can become of a request that is not answered.
var (
	errLost   = errors.New("server ended the connection")
	errSilent = errors.New("no answer, and the connection is open")
)

// badAnswer is an answer that no server may give.
func badAnswer(format string, args ...any) error {
	return fmt.Errorf("wrong answer: "+format, args...)
}

// pduClient is a client for messages that are wrong. It never fails a test
// itself: whoever sends decides what an error means.
type pduClient struct {
	nc     net.Conn
	in     *bufio.Reader
	m      mutator
	answer time.Duration // that the server may take

	dialect smb2.Dialect
	cipher  smb2.Cipher
	signing smb2.SigningAlgorithm
	preauth smb2.PreauthHash
	offer   []byte

	session, message uint64
	sign, seal       bool
	signer           *smb2.Signer
	sealer           *smb2.Sealer
	opener           *smb2.Opener

	pending map[uint64]uint64 // message id to AsyncId of what has gone async
	world   world
}

func dialPDU(addr string, m mutator, answer time.Duration) (*pduClient, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &pduClient{nc: nc, in: bufio.NewReader(nc), m: m, answer: answer, pending: map[uint64]uint64{}}, nil
}

// close resets the connection: thousands of them leave no port waiting.
func (c *pduClient) close() {
	c.nc.(*net.TCPConn).SetLinger(0)
	c.nc.Close()
}

// pdu makes a request. need is what its credit charge has to cover, bytes.
func (c *pduClient) pdu(cmd smb2.Command, tree uint32, m body, payload []byte, need int) []byte {
	h := smb2.Header{Command: cmd, Credits: 64, MessageID: c.message, SessionID: c.session, TreeID: tree}
	if c.dialect > smb2.Dialect202 {
		h.CreditCharge = uint16((max(need, len(payload), 1)-1)/creditUnit + 1)
	}
	b := make([]byte, m.Size()+len(payload))
	h.Encode(b)
	m.Encode(b[:m.Size()])
	copy(b[m.Size():], payload)
	return b
}

// split calls visit for each command of a frame as a server would see them.
func split(frame []byte, visit func(msg []byte)) {
	for len(frame) >= smb2.HeaderSize && smb2.ProtocolID(frame) == smb2.ProtocolSMB2 {
		next := uint64(binary.LittleEndian.Uint32(frame[20:]))
		if next == 0 || next < smb2.HeaderSize || next+smb2.HeaderSize > uint64(len(frame)) {
			visit(frame)
			return
		}
		visit(frame[:next:next])
		frame = frame[next:]
	}
}

// protect signs or seals a frame as the client is set to, and uses up its ids.
func (c *pduClient) protect(frame []byte) []byte {
	split(frame, func(msg []byte) {
		if binary.LittleEndian.Uint16(msg[12:]) == uint16(smb2.CommandCancel) {
			return
		}
		if id := binary.LittleEndian.Uint64(msg[24:]); id == c.message {
			n := uint64(1)
			if c.dialect > smb2.Dialect202 {
				n = max(1, uint64(binary.LittleEndian.Uint16(msg[6:])))
			}
			c.message += n
		}
	})
	switch {
	case c.seal:
		b := make([]byte, smb2.TransformHeaderSize+len(frame), smb2.TransformHeaderSize+len(frame)+smb2.SealTailroom)
		copy(b[smb2.TransformHeaderSize:], frame)
		if c.sealer.Seal(b) == nil {
			return b
		}
	case c.sign && c.signer != nil:
		split(frame, c.signer.Sign)
	}
	return frame
}

// send writes a frame under the length it has.
func (c *pduClient) send(frame []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame)))
	return c.raw(append(b, frame...))
}

func (c *pduClient) raw(b []byte) error {
	c.nc.SetDeadline(time.Now().Add(c.answer))
	if _, err := c.nc.Write(b); err != nil {
		return c.ended(err)
	}
	return nil
}

func (c *pduClient) ended(err error) error {
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return errSilent
	}
	return errLost
}

// receive reads one frame of responses and checks what holds for every response.
func (c *pduClient) receive() ([]response, error) {
	var h [4]byte
	if _, err := io.ReadFull(c.in, h[:]); err != nil {
		return nil, c.ended(err)
	}
	n := int(binary.BigEndian.Uint32(h[:]))
	if n > maxFrame {
		return nil, badAnswer("frame of %d bytes", n)
	}
	msg := make([]byte, n, n+smb2.SealTailroom)
	if _, err := io.ReadFull(c.in, msg); err != nil {
		return nil, c.ended(err)
	}
	sealed := smb2.IsTransform(msg)
	if sealed {
		if c.opener == nil {
			return nil, badAnswer("encrypted")
		}
		var err error
		if msg, err = c.opener.Open(msg); err != nil {
			return nil, badAnswer("%w", err)
		}
	} else if c.seal && !isNotice(msg) {
		return nil, badAnswer("not encrypted")
	}
	if isNotice(msg) {
		return c.receive()
	}
	var list []response
	for msg != nil {
		one, rest, err := smb2.SplitCompound(msg)
		if err != nil {
			return nil, badAnswer("%w", err)
		}
		r := response{msg: one}
		if err := r.hdr.Decode(one); err != nil {
			return nil, badAnswer("%w", err)
		}
		if err := c.check(&r); err != nil {
			return nil, err
		}
		list, msg = append(list, r), rest
	}
	return list, nil
}

// check verifies a response's header, signature and body.
func (c *pduClient) check(r *response) error {
	h := &r.hdr
	switch {
	case !h.IsResponse():
		return badAnswer("%v is a request", h.Command)
	case h.Flags&smb2.FlagSigned != 0 && c.signer != nil && !c.signer.Verify(r.msg):
		return badAnswer("%v: signature", h.Command)
	case h.Flags&smb2.FlagSigned == 0 && c.sign && !c.seal && h.SessionID == c.session && !h.Status.IsError() &&
		h.Status != smb2.StatusPending && h.Command != smb2.CommandLogoff && h.Command != smb2.CommandSessionSetup:
		return badAnswer("%v %v: not signed", h.Command, h.Status)
	}
	var m smb2.Message = &smb2.ErrorResponse{}
	if h.Status == smb2.StatusSuccess {
		if m = responseBody(h.Command, r.msg); m == nil {
			return badAnswer("%v succeeded", h.Command)
		}
	} else if len(r.msg) > smb2.HeaderSize+2 && binary.LittleEndian.Uint16(r.msg[smb2.HeaderSize:]) != 9 {
		return nil // a warning, or an error with the command's own body
	} else if h.Status.IsWarning() || h.Command == smb2.CommandSessionSetup {
		return nil
	}
	if err := m.Decode(r.msg); err != nil {
		return badAnswer("%v %v: %w", h.Command, h.Status, err)
	}
	return nil
}

// responseBody is the structure of a command's response.
func responseBody(cmd smb2.Command, msg []byte) smb2.Message {
	switch cmd {
	case smb2.CommandNegotiate:
		return &smb2.NegotiateResponse{}
	case smb2.CommandSessionSetup:
		return &smb2.SessionSetupResponse{}
	case smb2.CommandLogoff:
		return &smb2.LogoffResponse{}
	case smb2.CommandTreeConnect:
		return &smb2.TreeConnectResponse{}
	case smb2.CommandTreeDisconnect:
		return &smb2.TreeDisconnectResponse{}
	case smb2.CommandCreate:
		return &smb2.CreateResponse{}
	case smb2.CommandClose:
		return &smb2.CloseResponse{}
	case smb2.CommandFlush:
		return &smb2.FlushResponse{}
	case smb2.CommandRead:
		return &smb2.ReadResponse{}
	case smb2.CommandWrite:
		return &smb2.WriteResponse{}
	case smb2.CommandLock:
		return &smb2.LockResponse{}
	case smb2.CommandIoctl:
		return &smb2.IoctlResponse{}
	case smb2.CommandEcho:
		return &smb2.EchoResponse{}
	case smb2.CommandQueryDirectory:
		return &smb2.QueryDirectoryResponse{}
	case smb2.CommandChangeNotify:
		return &smb2.ChangeNotifyResponse{}
	case smb2.CommandQueryInfo:
		return &smb2.QueryInfoResponse{}
	case smb2.CommandSetInfo:
		return &smb2.SetInfoResponse{}
	case smb2.CommandOplockBreak:
		if smb2.IsLeaseBreak(msg) {
			return &smb2.LeaseBreakResponse{}
		}
		return &smb2.OplockBreakResponse{}
	}
	return nil
}

// await reads until each of the message ids has been answered, for good or with
// an interim response, and returns the responses.
func (c *pduClient) await(ids []uint64) ([]response, error) {
	c.nc.SetDeadline(time.Now().Add(c.answer))
	open := map[uint64]bool{}
	for _, id := range ids {
		open[id] = true
	}
	var all []response
	for len(open) > 0 {
		list, err := c.receive()
		if err != nil {
			return all, err
		}
		for _, r := range list {
			id := r.hdr.MessageID
			_, waited := c.pending[id]
			switch {
			case r.hdr.Status == smb2.StatusPending && open[id]:
				c.pending[id] = r.hdr.AsyncID
			case open[id]:
				delete(c.pending, id)
			case waited:
				delete(c.pending, id)
				continue
			default:
				return all, badAnswer("%v with message id %d, which was not sent", r.hdr.Command, id)
			}
			delete(open, id)
			all = append(all, r)
		}
	}
	return all, nil
}

// expected are the message ids a server has to answer, unless it ends the connection.
func expected(frame []byte) (ids []uint64) {
	if len(frame) >= 4 && smb2.ProtocolID(frame) == smb2.ProtocolSMB1 {
		return []uint64{0}
	}
	split(frame, func(msg []byte) {
		if binary.LittleEndian.Uint16(msg[12:]) != uint16(smb2.CommandCancel) {
			ids = append(ids, binary.LittleEndian.Uint64(msg[24:]))
		}
	})
	if ids == nil && len(frame) > 0 && (len(frame) < smb2.HeaderSize || smb2.ProtocolID(frame) != smb2.ProtocolSMB2) {
		return []uint64{^uint64(0)} // no message: nothing but the connection's end will do
	}
	return ids
}

// call sends one request as it should be, and returns its response.
func (c *pduClient) call(msg []byte) (response, error) {
	ids := expected(msg)
	if err := c.send(c.protect(msg)); err != nil {
		return response{}, err
	}
	list, err := c.await(ids)
	if err != nil {
		return response{}, err
	}
	return list[0], nil
}

// demand is call for what has to succeed.
func (c *pduClient) demand(msg []byte, m smb2.Message) error {
	r, err := c.call(msg)
	if err != nil {
		return err
	}
	if r.hdr.Status != smb2.StatusSuccess {
		return fmt.Errorf("%v: %w", r.hdr.Command, r.hdr.Status)
	}
	return m.Decode(r.msg)
}

// cancel gives up a request that has gone async, and waits for its end.
func (c *pduClient) cancel(id uint64) error {
	b := c.pdu(smb2.CommandCancel, 0, &smb2.CancelRequest{}, nil, 0)
	binary.LittleEndian.PutUint64(b[24:], id)
	if c.m.IntN(2) == 0 {
		binary.LittleEndian.PutUint32(b[16:], uint32(smb2.FlagAsyncCommand))
		binary.LittleEndian.PutUint64(b[32:], c.pending[id])
	}
	// The request may have been the one rightly signed message of a compound on a
	// connection that does not sign: an unsigned CANCEL would rightly be ignored.
	was := c.sign
	c.sign = was || c.signer != nil
	frame := c.protect(b)
	c.sign = was
	if err := c.send(frame); err != nil {
		return err
	}
	delete(c.pending, id)
	_, err := c.await([]uint64{id})
	return err
}

// half ends the client's side of the connection and demands that the server ends
// its own, whatever it sends before.
func (c *pduClient) half() error {
	c.nc.(*net.TCPConn).CloseWrite()
	c.nc.SetDeadline(time.Now().Add(c.answer))
	if _, err := io.Copy(io.Discard, c.in); err != nil && c.ended(err) == errSilent {
		return errSilent
	}
	return errLost
}

// negotiate agrees on one dialect, with a random cipher and signing algorithm.
func (c *pduClient) negotiate(d smb2.Dialect) error {
	m := &smb2.NegotiateRequest{
		SecurityMode: smb2.SigningEnabled, Capabilities: smb2.CapEncryption | smb2.CapLargeMTU,
		ClientGUID: smb2.GUID{1, 2, 3}, Dialects: []smb2.Dialect{d},
	}
	c.signing = smb2.SigningFor(d)
	switch {
	case d == smb2.Dialect311:
		c.cipher = pick(c.m, smb2.CipherAES128GCM, smb2.CipherAES256GCM, smb2.CipherAES128CCM, smb2.CipherAES256CCM)
		c.signing = pick(c.m, smb2.SigningAESGMAC, smb2.SigningAESCMAC, smb2.SigningHMACSHA256)
		p := smb2.PreauthIntegrityCapabilities{HashAlgorithms: []smb2.HashAlgorithm{smb2.HashSHA512}, Salt: []byte{1}}
		e := smb2.EncryptionCapabilities{Ciphers: []smb2.Cipher{c.cipher}}
		s := smb2.SigningCapabilities{Algorithms: []smb2.SigningAlgorithm{c.signing}}
		m.Contexts = []smb2.NegotiateContext{p.Context(), e.Context(), s.Context()}
	case d >= smb2.Dialect300:
		c.cipher = smb2.CipherAES128CCM
	}
	req := c.pdu(smb2.CommandNegotiate, 0, m, nil, 0)
	r, err := c.call(req)
	if err != nil {
		return err
	}
	var n smb2.NegotiateResponse
	if r.hdr.Status != smb2.StatusSuccess {
		return r.hdr.Status
	} else if err := n.Decode(r.msg); err != nil {
		return err
	}
	c.dialect, c.offer = d, n.SecurityBuffer
	if d == smb2.Dialect311 {
		c.preauth.Update(req)
		c.preauth.Update(r.msg)
	}
	return nil
}

// logon is the client's side of an authentication, leg by leg.
type logon struct {
	c       *pduClient
	in      auth.Initiator
	preauth smb2.PreauthHash
	token   []byte
}

func (c *pduClient) newLogon(user string) *logon {
	in := auth.NewSPNEGOInitiator(&auth.ClientConfig{User: user, NTHash: auth.NTHash(testPassword)})
	return &logon{c: c, in: in, preauth: c.preauth, token: c.offer}
}

// next is the next request, and where its token begins.
func (l *logon) next() (msg []byte, token int, err error) {
	out, _, err := l.in.Init(l.token)
	if err != nil {
		return nil, 0, err
	}
	msg = l.c.pdu(smb2.CommandSessionSetup, 0, &smb2.SessionSetupRequest{
		SecurityMode: smb2.SigningEnabled, SecurityBuffer: out}, nil, 0)
	return msg, len(msg) - len(out), nil
}

// answered takes the response in; done with the exchange's end.
func (l *logon) answered(req []byte, r response) (done bool, err error) {
	var m smb2.SessionSetupResponse
	if st := r.hdr.Status; st != smb2.StatusSuccess && st != smb2.StatusMoreProcessingRequired {
		return false, st
	} else if err := m.Decode(r.msg); err != nil {
		return false, err
	}
	l.preauth.Update(req)
	l.c.session, l.token = r.hdr.SessionID, m.SecurityBuffer
	if r.hdr.Status == smb2.StatusMoreProcessingRequired {
		l.preauth.Update(r.msg)
		return false, nil
	}
	if len(l.token) > 0 {
		_, _, err = l.in.Init(l.token)
	}
	return true, err
}

// login authenticates; user "" is nobody.
func (c *pduClient) login(user string) error {
	l := c.newLogon(user)
	for {
		req, _, err := l.next()
		if err != nil {
			return err
		}
		r, err := c.call(req)
		if err != nil {
			return err
		}
		done, err := l.answered(req, r)
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	if user == "" {
		return nil
	}
	return c.keys(l.in.SessionKey(), &l.preauth)
}

func (c *pduClient) keys(key []byte, preauth *smb2.PreauthHash) (err error) {
	k := smb2.KeyInput{Dialect: c.dialect, Cipher: c.cipher, Key: key, Preauth: preauth}.Derive()
	if c.signer, err = smb2.NewSigner(c.signing, k.Signing); err != nil || c.cipher == 0 {
		return err
	}
	if c.sealer, err = smb2.NewSealer(c.cipher, k.Encryption, c.session); err != nil {
		return err
	}
	c.opener, err = smb2.NewOpener(c.cipher, k.Decryption)
	return err
}
