package auth

import (
	"bytes"
	"fmt"
	"slices"
)

// mechanisms are what the server offers, best first.
func (c *Config) mechanisms() []Mechanism {
	return append(slices.Clone(c.Mechanisms),
		Mechanism{OID: OIDNTLM, Accept: func() MechAcceptor { return newNTLMAcceptor(c) }})
}

// spnegoAcceptor is the server's side of SPNEGO (RFC 4178 4 and 5).
type spnegoAcceptor struct {
	cfg      *Config
	state    spnegoState
	mech     MechAcceptor
	mechOID  OID // as the client spelled it
	mechList []byte
	wantMIC  bool // the client's first choice was passed over: both sides must prove the list
	sentMIC  bool
}

type spnegoState int

const (
	spnegoStart   spnegoState = iota
	spnegoRunning             // the mechanism exchanges tokens
	spnegoMIC                 // only the other side's MIC is missing
	spnegoRaw                 // NTLM without SPNEGO
	spnegoDone
	spnegoFailed
)

// NewSPNEGOAcceptor accepts SPNEGO with the configured mechanisms and NTLM, and
// NTLM messages without SPNEGO around them.
func NewSPNEGOAcceptor(cfg *Config) Acceptor { return &spnegoAcceptor{cfg: cfg} }

// SessionKey implements Acceptor.
func (a *spnegoAcceptor) SessionKey() []byte {
	if a.state != spnegoDone {
		return nil
	}
	return a.mech.SessionKey()
}

// Identity implements Acceptor.
func (a *spnegoAcceptor) Identity() Identity {
	if a.state != spnegoDone {
		return Identity{}
	}
	return a.mech.Identity()
}

// Accept implements Acceptor. Its errors are the mechanism's, and ErrMalformed,
// ErrNoMechanism and ErrIntegrity.
func (a *spnegoAcceptor) Accept(in []byte) (out []byte, done bool, err error) {
	out, next, err := a.step(in)
	if err != nil {
		a.state = spnegoFailed
		return nil, false, err
	}
	a.state = next
	return out, next == spnegoDone, nil
}

func (a *spnegoAcceptor) step(in []byte) (out []byte, next spnegoState, err error) {
	if len(in) > MaxToken {
		return nil, 0, malformed("%d bytes", len(in))
	}
	switch a.state {
	case spnegoStart:
		if isNTLM(in) {
			a.mech = newNTLMAcceptor(a.cfg)
			return a.stepRaw(in)
		}
		return a.stepInit(in)
	case spnegoRaw:
		return a.stepRaw(in)
	case spnegoRunning, spnegoMIC:
		return a.stepResp(in)
	}
	return nil, 0, malformed("token after the end")
}

func (a *spnegoAcceptor) stepRaw(in []byte) ([]byte, spnegoState, error) {
	out, done, err := a.mech.Accept(in)
	if done {
		return out, spnegoDone, err
	}
	return out, spnegoRaw, err
}

// stepInit chooses the mechanism: the first of the client's that the server has.
func (a *spnegoAcceptor) stepInit(in []byte) ([]byte, spnegoState, error) {
	var t negTokenInit
	if err := t.decode(in); err != nil {
		return nil, 0, err
	}
	if len(t.mechs) == 0 {
		return nil, 0, malformed("NegTokenInit without mechanisms")
	}
	chosen := -1
	offered := a.cfg.mechanisms()
	for i, oid := range t.mechs {
		at := slices.IndexFunc(offered, func(m Mechanism) bool {
			return m.OID == oid || slices.Contains(m.Aliases, oid)
		})
		if at >= 0 {
			chosen, a.mechOID, a.mech = i, oid, offered[at].Accept()
			break
		}
	}
	if chosen < 0 {
		return nil, 0, fmt.Errorf("%w among the client's %d", ErrNoMechanism, len(t.mechs))
	}
	a.mechList = bytes.Clone(t.mechList)
	resp := negTokenResp{state: acceptIncomplete, mech: a.mechOID}
	if chosen > 0 { // the optimistic token was for another mechanism
		a.wantMIC = true
		resp.state = requestMIC
		return resp.encode(), spnegoRunning, nil
	}
	if t.mechToken == nil {
		return resp.encode(), spnegoRunning, nil
	}
	return a.run(&resp, t.mechToken, t.mic)
}

// stepResp takes the client's further tokens.
func (a *spnegoAcceptor) stepResp(in []byte) ([]byte, spnegoState, error) {
	var t negTokenResp
	if err := t.decode(in); err != nil {
		return nil, 0, err
	}
	if t.state == rejected {
		return nil, 0, fmt.Errorf("%w: the client gave up", ErrNoMechanism)
	}
	resp := negTokenResp{state: acceptIncomplete}
	if a.state == spnegoMIC {
		if t.mic == nil || t.token != nil {
			return nil, 0, fmt.Errorf("%w: mechListMIC missing", ErrIntegrity)
		}
		return a.finish(&resp, t.mic)
	}
	if t.token == nil {
		return nil, 0, malformed("NegTokenResp without a mechanism token")
	}
	return a.run(&resp, t.token, t.mic)
}

// run hands the mechanism its token.
func (a *spnegoAcceptor) run(resp *negTokenResp, token, mic []byte) ([]byte, spnegoState, error) {
	out, done, err := a.mech.Accept(token)
	if err != nil {
		return nil, 0, err
	}
	resp.token = out
	if done {
		return a.finish(resp, mic)
	}
	return resp.encode(), spnegoRunning, nil
}

// finish settles the integrity of the mechanism list once the mechanism is done
// (RFC 4178 5). A client's MIC is always checked and answered with ours. Where the
// mechanism was not the client's first choice, both are needed; with a mechanism
// that has no integrity there is none to be had, and the standard lets it pass.
func (a *spnegoAcceptor) finish(resp *negTokenResp, mic []byte) ([]byte, spnegoState, error) {
	possible := a.mech.HasIntegrity()
	if mic != nil && possible {
		if !a.mech.VerifyMIC(a.mechList, mic) {
			return nil, 0, fmt.Errorf("%w: mechListMIC", ErrIntegrity)
		}
	}
	if possible && !a.sentMIC && (mic != nil || a.wantMIC) {
		resp.mic, a.sentMIC = a.mech.MIC(a.mechList), true
	}
	if possible && a.wantMIC && mic == nil {
		return resp.encode(), spnegoMIC, nil
	}
	resp.state = acceptCompleted
	return resp.encode(), spnegoDone, nil
}
