package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"lunless/smbstore/smb2"
)

// negotiated is what a connection's NEGOTIATE settled.
type negotiated struct {
	dialect      smb2.Dialect
	capabilities smb2.Capabilities // the server's
	serverMode   smb2.SecurityMode
	serverGUID   smb2.GUID
	cipher       smb2.Cipher // 0: no encryption
	signing      smb2.SigningAlgorithm
	token        []byte
	preauth      smb2.PreauthHash
	multiCredit  bool
	maxTransact  int // bytes, as the two below
	maxRead      int
	maxWrite     int
	maxFrame     int // the longest frame to take from the server; guarded by conn.mu
}

// maxTransfer bounds one READ or WRITE whatever the server offers, in bytes: past
// it nothing gets faster, and memory is held longer.
const maxTransfer = 8 << 20

// clientCapabilities are what we say of ourselves (MS-SMB2 3.2.4.2.2.2).
func (cfg *Config) clientCapabilities() smb2.Capabilities {
	if cfg.MaxDialect < smb2.Dialect300 {
		return 0
	}
	return smb2.CapLeasing | smb2.CapLargeMTU | smb2.CapMultiChannel | smb2.CapPersistentHandles |
		smb2.CapDirectoryLeasing | smb2.CapEncryption
}

func (cfg *Config) securityMode() smb2.SecurityMode {
	if cfg.RequireSigning {
		return smb2.SigningEnabled | smb2.SigningRequired
	}
	return smb2.SigningEnabled
}

func (cfg *Config) negotiateRequest() *smb2.NegotiateRequest {
	q := &smb2.NegotiateRequest{
		SecurityMode: cfg.securityMode(), Capabilities: cfg.clientCapabilities(),
		Dialects: dialects(cfg.MinDialect, cfg.MaxDialect),
	}
	if cfg.MaxDialect > smb2.Dialect202 {
		q.ClientGUID = cfg.ClientGUID
	}
	if !q.HasDialect(smb2.Dialect311) {
		return q
	}
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	p := smb2.PreauthIntegrityCapabilities{HashAlgorithms: []smb2.HashAlgorithm{smb2.HashSHA512}, Salt: salt}
	e := smb2.EncryptionCapabilities{Ciphers: cfg.Ciphers}
	s := smb2.SigningCapabilities{Algorithms: cfg.Signing}
	n := smb2.NetnameContext{NetName: cfg.ServerName}
	q.Contexts = []smb2.NegotiateContext{p.Context(), e.Context(), s.Context(), n.Context()}
	return q
}

// rawExchange sends a request that sets up a connection or a session and returns
// both messages as they went over the wire, for the preauthentication hash.
func (c *conn) rawExchange(ctx context.Context, k *call, m message) (request []byte, k2 *call, err error) {
	if err := c.reserve(ctx, k, 1); err != nil {
		return nil, nil, err
	}
	n := m.Size()
	c.send(ctx, k, m, nil)
	request = append([]byte(nil), k.request(n)...)
	if err := k.wait(ctx); err != nil {
		return nil, nil, err
	}
	return request, k, nil
}

// negotiate settles dialect, limits and algorithms (MS-SMB2 3.2.4.2.2.2, 3.2.5.2).
func (c *conn) negotiate(ctx context.Context) error {
	q := c.cfg.negotiateRequest()
	req, k, err := c.rawExchange(ctx, newCall(smb2.CommandNegotiate), q)
	if err != nil {
		return err
	}
	defer k.free()
	if k.resp.Status != smb2.StatusSuccess {
		return &StatusError{Command: smb2.CommandNegotiate, Status: k.resp.Status}
	}
	var m smb2.NegotiateResponse
	if err := m.Decode(k.body); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if !slices.Contains(q.Dialects, m.DialectRevision) {
		return fmt.Errorf("%w: the server chose %v, which was not offered", ErrSecurity, m.DialectRevision)
	}
	n := negotiated{
		dialect: m.DialectRevision, capabilities: m.Capabilities, serverMode: m.SecurityMode, serverGUID: m.ServerGUID,
		signing: smb2.SigningFor(m.DialectRevision), token: append([]byte(nil), m.SecurityBuffer...),
	}
	n.multiCredit = n.dialect > smb2.Dialect202 && m.Capabilities&smb2.CapLargeMTU != 0
	limit := creditUnit
	if n.multiCredit {
		limit = maxTransfer
	}
	n.maxTransact = min(int(min(m.MaxTransactSize, 1<<30)), limit)
	n.maxRead = min(int(min(m.MaxReadSize, 1<<30)), limit)
	n.maxWrite = min(int(min(m.MaxWriteSize, 1<<30)), limit)
	if n.maxTransact < 4096 || n.maxRead < 4096 || n.maxWrite < 4096 {
		return protocolError("sizes of %d, %d and %d bytes", m.MaxTransactSize, m.MaxReadSize, m.MaxWriteSize)
	}
	n.maxFrame = max(n.maxTransact, n.maxRead) + creditUnit
	switch {
	case n.dialect == smb2.Dialect311:
		n.preauth.Update(req)
		n.preauth.Update(k.body)
		if err := c.cfg.negotiateContexts(&n, m.Contexts); err != nil {
			return err
		}
	case n.dialect >= smb2.Dialect300 && m.Capabilities&smb2.CapEncryption != 0:
		n.cipher = smb2.CipherAES128CCM
	}
	if c.cfg.Encrypt && n.cipher == 0 {
		return fmt.Errorf("%w: the server does not encrypt", ErrSecurity)
	}
	c.mu.Lock()
	c.neg = n
	c.mu.Unlock()
	return nil
}

// negotiateContexts takes in what 3.1.1 settles in contexts (MS-SMB2 3.2.5.2). An
// algorithm that was not offered ends the connection.
func (cfg *Config) negotiateContexts(n *negotiated, list []smb2.NegotiateContext) error {
	data, ok := smb2.FindNegotiateContext(list, smb2.NegotiatePreauthIntegrity)
	var p smb2.PreauthIntegrityCapabilities
	if !ok {
		return fmt.Errorf("%w: no preauthentication integrity", ErrSecurity)
	} else if err := p.Decode(data); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	} else if len(p.HashAlgorithms) != 1 || p.HashAlgorithms[0] != smb2.HashSHA512 {
		return fmt.Errorf("%w: preauthentication integrity with hashes %v", ErrSecurity, p.HashAlgorithms)
	}
	if data, ok := smb2.FindNegotiateContext(list, smb2.NegotiateEncryption); ok {
		var e smb2.EncryptionCapabilities
		if err := e.Decode(data); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if len(e.Ciphers) != 1 || e.Ciphers[0] != 0 && !slices.Contains(cfg.Ciphers, e.Ciphers[0]) {
			return fmt.Errorf("%w: the server chose ciphers %v", ErrSecurity, e.Ciphers)
		}
		n.cipher = e.Ciphers[0]
	}
	if data, ok := smb2.FindNegotiateContext(list, smb2.NegotiateSigning); ok {
		var s smb2.SigningCapabilities
		if err := s.Decode(data); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if len(s.Algorithms) != 1 || !slices.Contains(cfg.Signing, s.Algorithms[0]) {
			return fmt.Errorf("%w: the server chose signing algorithms %v", ErrSecurity, s.Algorithms)
		}
		n.signing = s.Algorithms[0]
	}
	return nil
}

// maxUnconfirmed is how often in a row a connection may be lost while the
// negotiation is confirmed: a server that finds it changed ends the connection
// (MS-SMB2 3.3.5.15.12), which may happen by chance once or twice.
const maxUnconfirmed = 3

// validateNegotiate has a server of SMB 3.0 or 3.0.2, which sign no NEGOTIATE, say
// again under the session's key what it was asked and what it answered (MS-SMB2
// 3.2.5.5): somebody on the way may have changed either. A server that fails the
// request without knowing it has at least signed that.
func (s *session) validateNegotiate(ctx context.Context, c *conn, tree uint32, encrypt bool) error {
	n := &c.neg
	if n.dialect >= smb2.Dialect311 || s.client.cfg.MaxDialect < smb2.Dialect300 {
		return nil
	}
	q := s.client.cfg.negotiateRequest()
	in := smb2.ValidateNegotiateInfoRequest{Capabilities: q.Capabilities, GUID: q.ClientGUID, SecurityMode: q.SecurityMode, Dialects: q.Dialects}
	buf := make([]byte, in.Size())
	in.Encode(buf)
	k := newCall(smb2.CommandIoctl)
	c.protect(k, encrypt)
	k.sign = !k.seal
	k.hdr.TreeID = tree
	body, err := c.exchange(ctx, k, &smb2.IoctlRequest{
		CtlCode: smb2.FsctlValidateNegotiateInfo, FileID: smb2.RelatedFileID, Input: buf,
		MaxOutputResponse: 64, Flags: smb2.IoctlIsFSCTL,
	})
	var refused *StatusError
	if errors.As(err, &refused) {
		// Servers from before SMB 3 do not know it, and say so under their signature;
		// ACCESS_DENIED is a server that found something changed.
		if n.dialect < smb2.Dialect300 && (errors.Is(refused, ErrNotSupported) || refused.Status == smb2.StatusFileClosed || refused.Status == smb2.StatusInvalidParameter) {
			return nil
		}
		return fmt.Errorf("%w: the server does not confirm the negotiation: %w", ErrSecurity, err)
	} else if isLost(err) && s.client.unconfirmed.Add(1) >= maxUnconfirmed {
		return fmt.Errorf("%w: the server ends the connection when the negotiation is to be confirmed", ErrSecurity)
	} else if err != nil {
		return err
	}
	s.client.unconfirmed.Store(0)
	var r smb2.IoctlResponse
	var v smb2.ValidateNegotiateInfoResponse
	if err := r.Decode(body); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	} else if err := v.Decode(r.Output); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if v.Dialect != n.dialect || v.Capabilities != n.capabilities || v.GUID != n.serverGUID || v.SecurityMode != n.serverMode {
		return fmt.Errorf("%w: the negotiation was tampered with", ErrSecurity)
	}
	return nil
}

// exchange sends one request and returns a copy of its successful response; any
// other status is a *StatusError. The call is freed.
func (c *conn) exchange(ctx context.Context, k *call, m message) ([]byte, error) {
	command := k.hdr.Command
	if err := c.reserve(ctx, k, 1); err != nil {
		return nil, err
	}
	c.send(ctx, k, m, nil)
	if err := k.wait(ctx); err != nil {
		return nil, err
	}
	defer k.free()
	if k.resp.Status != smb2.StatusSuccess {
		return nil, &StatusError{Command: command, Status: k.resp.Status}
	}
	return append([]byte(nil), k.body...), nil
}
