package auth

import (
	"fmt"
	"slices"
)

// spnegoInitiator is the client's side of SPNEGO (RFC 4178 4 and 5) with one
// mechanism.
type spnegoInitiator struct {
	mech     MechInitiator
	oid      OID
	state    spnegoState
	mechList []byte
	mechDone bool
	peerMIC  bool // the server's MIC has been verified
}

// NewSPNEGOInitiator logs on with NTLMv2 inside SPNEGO. The first Init takes the
// server's NegTokenInit2, or nothing.
func NewSPNEGOInitiator(cfg *ClientConfig) Initiator {
	return NewSPNEGOInitiatorWith(OIDNTLM, newNTLMInitiator(cfg))
}

// NewSPNEGOInitiatorWith does so with a given mechanism.
func NewSPNEGOInitiatorWith(oid OID, mech MechInitiator) Initiator {
	return &spnegoInitiator{mech: mech, oid: oid, mechList: mechTypeList([]OID{oid})}
}

// SessionKey implements Initiator. It is there from the mechanism's last token on,
// since the server's last answer may already be signed with it.
func (c *spnegoInitiator) SessionKey() []byte { return c.mech.SessionKey() }

// Init implements Initiator. Its errors are the mechanism's, and ErrMalformed,
// ErrNoMechanism and ErrIntegrity.
func (c *spnegoInitiator) Init(in []byte) (out []byte, done bool, err error) {
	out, next, err := c.step(in)
	if err != nil {
		c.state = spnegoFailed
		return nil, false, err
	}
	c.state = next
	return out, next == spnegoDone, nil
}

func (c *spnegoInitiator) step(in []byte) (out []byte, next spnegoState, err error) {
	if len(in) > MaxToken {
		return nil, 0, malformed("%d bytes", len(in))
	}
	switch c.state {
	case spnegoStart:
		return c.start(in)
	case spnegoRunning:
		return c.resume(in)
	}
	return nil, 0, malformed("token after the end")
}

// start makes the first token. The server's offer is only looked at for whether
// our mechanism is in it; nothing protects it.
func (c *spnegoInitiator) start(hint []byte) ([]byte, spnegoState, error) {
	if len(hint) > 0 {
		var t negTokenInit
		if err := t.decode(hint); err != nil {
			return nil, 0, err
		}
		if len(t.mechs) > 0 && !slices.Contains(t.mechs, c.oid) {
			return nil, 0, fmt.Errorf("%w among the server's %d", ErrNoMechanism, len(t.mechs))
		}
	}
	token, done, err := c.mech.Init(nil)
	if err != nil {
		return nil, 0, err
	}
	c.mechDone = done
	t := negTokenInit{mechList: c.mechList, mechToken: token}
	return t.encode(), spnegoRunning, nil
}

// resume takes the server's answers.
func (c *spnegoInitiator) resume(in []byte) ([]byte, spnegoState, error) {
	var t negTokenResp
	if len(in) == 0 { // a server may end without a word
		t.state = acceptCompleted
	} else if err := t.decode(in); err != nil {
		return nil, 0, err
	}
	if t.state == rejected || t.mech != "" && t.mech != c.oid {
		return nil, 0, fmt.Errorf("%w: the server declined", ErrNoMechanism)
	}
	out := negTokenResp{state: negStateAbsent}
	if t.token != nil && !c.mechDone {
		token, done, err := c.mech.Init(t.token)
		if err != nil {
			return nil, 0, err
		}
		out.token, c.mechDone = token, done
	}
	if !c.mechDone {
		if t.state == acceptCompleted || out.token == nil {
			return nil, 0, malformed("the server ended the exchange early")
		}
		return out.encode(), spnegoRunning, nil
	}
	if t.mic != nil && c.mech.HasIntegrity() {
		if !c.mech.VerifyMIC(c.mechList, t.mic) {
			return nil, 0, fmt.Errorf("%w: mechListMIC", ErrIntegrity)
		}
		c.peerMIC = true
	}
	if t.state == acceptCompleted {
		return nil, spnegoDone, nil
	}
	if out.token == nil && !c.peerMIC {
		return nil, 0, malformed("the server neither ends nor continues")
	}
	if c.mech.HasIntegrity() {
		out.mic = c.mech.MIC(c.mechList)
	}
	return out.encode(), spnegoRunning, nil
}
