package shares

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"time"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// transfers are the largest sizes a connection agreed on, bytes.
type transfers struct{ read, write, transact uint32 }

// negotiated is what NEGOTIATE settles for a connection (MS-SMB2 3.3.1.7).
type negotiated struct {
	dialect     smb2.Dialect // 0 as long as nothing is settled
	wildcard    bool         // an SMB1 negotiate has been answered with 2.???
	multiCredit bool
	max         transfers

	clientGUID     smb2.GUID
	clientMode     smb2.SecurityMode
	clientCaps     smb2.Capabilities
	clientDialects []smb2.Dialect
	serverMode     smb2.SecurityMode
	capabilities   smb2.Capabilities

	cipher  smb2.Cipher // 0: cannot encrypt
	signing smb2.SigningAlgorithm
	preauth smb2.PreauthHash
}

// Server preferences, best first: GCM is several times faster than CCM, and 128
// bits than 256; GMAC than CMAC.
var (
	ciphers  = []smb2.Cipher{smb2.CipherAES128GCM, smb2.CipherAES256GCM, smb2.CipherAES128CCM, smb2.CipherAES256CCM}
	signings = []smb2.SigningAlgorithm{smb2.SigningAESGMAC, smb2.SigningAESCMAC, smb2.SigningHMACSHA256}
)

// handleNegotiate answers NEGOTIATE (MS-SMB2 3.3.5.4).
func handleNegotiate(_ context.Context, r *request) error {
	c := r.conn
	if c.neg.dialect != 0 {
		return errDisconnect
	}
	var q smb2.NegotiateRequest
	if err := q.Decode(r.msg); err != nil {
		return err
	}
	if len(q.Dialects) == 0 {
		return smb2.StatusInvalidParameter
	}
	n := negotiated{
		clientGUID: q.ClientGUID, clientMode: q.SecurityMode,
		clientCaps: q.Capabilities, clientDialects: slices.Clone(q.Dialects),
	}
	dialect := c.srv.bestDialect(q.Dialects)
	if dialect == 0 {
		c.log.Info("no common dialect", "client_dialects", q.Dialects)
		return smb2.StatusNotSupported
	}
	n.setDialect(dialect, &c.srv.cfg)
	if dialect >= smb2.Dialect300 {
		n.capabilities |= q.Capabilities & smb2.CapMultiChannel
	}
	var contexts []smb2.NegotiateContext
	if dialect == smb2.Dialect311 {
		var err error
		if contexts, err = n.negotiateContexts(q.Contexts); err != nil {
			return err
		}
		n.preauth.Update(r.msg)
	} else if dialect >= smb2.Dialect300 && q.Capabilities&smb2.CapEncryption != 0 {
		n.cipher = smb2.CipherAES128CCM
		n.capabilities |= smb2.CapEncryption
	}
	resp := c.srv.negotiateResponse(&n, dialect)
	resp.Contexts = contexts
	c.neg = n // before the response: from now on the dialect's rules hold
	if err := r.respond(resp); err != nil {
		return err
	}
	if dialect == smb2.Dialect311 {
		c.neg.preauth.Update(r.reply.lastPart())
		if n.cipher != 0 {
			c.neg.capabilities |= smb2.CapEncryption
		}
	}
	c.log.Debug("negotiated", "dialect", dialect.String(), "cipher", n.cipher.String(), "signing", uint16(n.signing))
	return nil
}

// bestDialect is the highest that both sides speak, 0 if there is none.
func (srv *Server) bestDialect(offered []smb2.Dialect) smb2.Dialect {
	for _, d := range dialects {
		if d >= srv.cfg.MinDialect && d <= srv.cfg.MaxDialect && slices.Contains(offered, d) {
			return d
		}
	}
	return 0
}

// setDialect fills in what follows from the dialect alone.
func (n *negotiated) setDialect(d smb2.Dialect, cfg *Config) {
	n.dialect, n.signing = d, smb2.SigningFor(d)
	n.serverMode = smb2.SigningEnabled
	if cfg.Signing == SigningRequired {
		n.serverMode |= smb2.SigningRequired
	}
	size := uint32(cfg.Limits.Transfer)
	if d == smb2.Dialect202 {
		size = min(size, 64<<10)
	} else {
		n.multiCredit = true
		n.capabilities |= smb2.CapLargeMTU | smb2.CapLeasing
	}
	if d >= smb2.Dialect300 {
		n.capabilities |= smb2.CapDirectoryLeasing | smb2.CapPersistentHandles
	}
	n.max = transfers{read: size, write: size, transact: size}
}

func (srv *Server) negotiateResponse(n *negotiated, d smb2.Dialect) *smb2.NegotiateResponse {
	return &smb2.NegotiateResponse{
		SecurityMode:    n.serverMode,
		DialectRevision: d,
		ServerGUID:      srv.cfg.GUID,
		Capabilities:    n.capabilities,
		MaxTransactSize: n.max.transact,
		MaxReadSize:     n.max.read,
		MaxWriteSize:    n.max.write,
		SystemTime:      smb2.Filetime(fscc.FiletimeOf(time.Now())),
		SecurityBuffer:  srv.offer,
	}
}

// negotiateContexts settles what the client's contexts offer, and returns the
// answers (MS-SMB2 3.3.5.4).
func (n *negotiated) negotiateContexts(list []smb2.NegotiateContext) ([]smb2.NegotiateContext, error) {
	seen := map[smb2.NegotiateContextType]bool{}
	var out []smb2.NegotiateContext
	for _, ctx := range list {
		switch ctx.Type {
		case smb2.NegotiatePreauthIntegrity, smb2.NegotiateEncryption, smb2.NegotiateSigning,
			smb2.NegotiateCompression, smb2.NegotiateRDMATransform:
			if seen[ctx.Type] {
				return nil, smb2.StatusInvalidParameter
			}
			seen[ctx.Type] = true
		}
		var answer smb2.NegotiateContext
		var err error
		switch ctx.Type {
		case smb2.NegotiatePreauthIntegrity:
			answer, err = answerPreauth(ctx.Data)
		case smb2.NegotiateEncryption:
			answer, err = n.answerEncryption(ctx.Data)
		case smb2.NegotiateSigning:
			answer, err = n.answerSigning(ctx.Data)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, answer)
	}
	if !seen[smb2.NegotiatePreauthIntegrity] {
		return nil, smb2.StatusInvalidParameter
	}
	return out, nil
}

func answerPreauth(data []byte) (smb2.NegotiateContext, error) {
	var p smb2.PreauthIntegrityCapabilities
	if err := p.Decode(data); err != nil {
		return smb2.NegotiateContext{}, err
	}
	if !slices.Contains(p.HashAlgorithms, smb2.HashSHA512) {
		return smb2.NegotiateContext{}, smb2.StatusSMBNoPreauthIntegrityHashOverlap
	}
	p = smb2.PreauthIntegrityCapabilities{HashAlgorithms: []smb2.HashAlgorithm{smb2.HashSHA512}, Salt: make([]byte, 32)}
	rand.Read(p.Salt)
	return p.Context(), nil
}

func (n *negotiated) answerEncryption(data []byte) (smb2.NegotiateContext, error) {
	var e smb2.EncryptionCapabilities
	if err := e.Decode(data); err != nil {
		return smb2.NegotiateContext{}, err
	}
	n.cipher = first(ciphers, e.Ciphers, 0)
	e.Ciphers = []smb2.Cipher{n.cipher}
	return e.Context(), nil
}

func (n *negotiated) answerSigning(data []byte) (smb2.NegotiateContext, error) {
	var s smb2.SigningCapabilities
	if err := s.Decode(data); err != nil {
		return smb2.NegotiateContext{}, err
	}
	if len(s.Algorithms) == 0 {
		return smb2.NegotiateContext{}, smb2.StatusInvalidParameter
	}
	n.signing = first(signings, s.Algorithms, smb2.SigningAESCMAC)
	s.Algorithms = []smb2.SigningAlgorithm{n.signing}
	return s.Context(), nil
}

// first returns the first of ours that they have too.
func first[T comparable](ours, theirs []T, none T) T {
	for _, v := range ours {
		if slices.Contains(theirs, v) {
			return v
		}
	}
	return none
}

// negotiateSMB1 answers the SMB1 negotiate that leads to SMB2 (MS-SMB2 3.3.5.3).
// A client that speaks nothing but SMB1 is disconnected.
func (c *conn) negotiateSMB1(frame []byte) error {
	if c.neg.dialect != 0 || c.neg.wildcard {
		return fatalf("SMB1 message after NEGOTIATE")
	}
	names, ok := smb1Dialects(frame)
	if !ok {
		return fatalf("SMB1 message that is no negotiate")
	}
	var n negotiated
	dialect := smb2.Dialect202
	switch {
	case slices.ContainsFunc(names, func(s []byte) bool { return string(s) == "SMB 2.???" }) && c.srv.cfg.MaxDialect > smb2.Dialect202:
		dialect = smb2.DialectWildcard
		n.setDialect(smb2.Dialect210, &c.srv.cfg)
		n.dialect, n.wildcard = 0, true
	case slices.ContainsFunc(names, func(s []byte) bool { return string(s) == "SMB 2.002" }) && c.srv.cfg.MinDialect <= smb2.Dialect202:
		n.setDialect(smb2.Dialect202, &c.srv.cfg)
	default:
		return fatalf("client speaks SMB1 only, or no dialect from %v on", c.srv.cfg.MinDialect)
	}
	r := &c.req
	r.reset(c, &c.batch)
	r.hdr.Command = smb2.CommandNegotiate
	if !c.window.take(0, 1) {
		return fatalf("SMB1 negotiate after other messages")
	}
	c.neg = n
	if c.batch.buf == nil {
		c.batch.buf = getBuffer(0)
	}
	c.batch.begin(nil)
	if err := r.respond(c.srv.negotiateResponse(&n, dialect)); err != nil {
		return err
	}
	c.neg.multiCredit = dialect == smb2.DialectWildcard
	return c.batch.end()
}

// smb1Dialects are the names in an SMB_COM_NEGOTIATE request (MS-CIFS 2.2.4.52.1).
func smb1Dialects(frame []byte) ([][]byte, bool) {
	const header, negotiate, maxNames = 32, 0x72, 64
	if len(frame) < header+3 || frame[4] != negotiate || frame[header] != 0 {
		return nil, false
	}
	data := frame[header+3:]
	if n := int(binary.LittleEndian.Uint16(frame[header+1:])); n > len(data) {
		return nil, false
	} else {
		data = data[:n]
	}
	var names [][]byte
	for len(data) > 0 {
		name, rest, ok := bytes.Cut(data[1:], []byte{0})
		if data[0] != 2 || !ok || len(names) == maxNames {
			return nil, false
		}
		names = append(names, name)
		data = rest
	}
	return names, true
}

// validateNegotiate answers FSCTL_VALIDATE_NEGOTIATE_INFO (MS-SMB2 3.3.5.15.12):
// what the client says it sent must be what arrived here. Otherwise someone on
// the way has changed it, and the error ends the connection.
func (c *conn) validateNegotiate(q *smb2.ValidateNegotiateInfoRequest) (smb2.ValidateNegotiateInfoResponse, error) {
	n := &c.neg
	same := n.dialect < smb2.Dialect311 &&
		slices.Equal(q.Dialects, n.clientDialects) &&
		q.GUID == n.clientGUID && q.SecurityMode == n.clientMode && q.Capabilities == n.clientCaps
	if !same {
		c.log.Warn("negotiation was tampered with, or is validated on 3.1.1", "dialect", n.dialect.String())
		return smb2.ValidateNegotiateInfoResponse{}, errDisconnect
	}
	return smb2.ValidateNegotiateInfoResponse{
		Capabilities: n.capabilities, GUID: c.srv.cfg.GUID, SecurityMode: n.serverMode, Dialect: n.dialect,
	}, nil
}
