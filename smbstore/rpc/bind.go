package rpc

import "fmt"

// Context is one presentation context of a bind: an interface, and the transfer
// syntaxes the client can use with it.
type Context struct {
	ID       uint16
	Abstract Syntax
	Transfer []Syntax
}

// maxContexts and maxTransfers bound a bind; clients send up to three of each.
const (
	maxContexts  = 32
	maxTransfers = 16
)

// Bind is a bind or alter_context PDU (C706 12.6.4.3, 12.6.4.1).
type Bind struct {
	CallID     uint32
	Alter      bool
	MaxXmit    uint16 // bytes of the fragments the client sends
	MaxRecv    uint16 // and takes
	AssocGroup uint32
	Contexts   []Context
	AuthLength uint16 // of a trailer that Decode leaves alone; never encoded
}

func (b *Bind) pduType() PDUType {
	if b.Alter {
		return PDUAlterContext
	}
	return PDUBind
}

// Encode returns the PDU.
func (b *Bind) Encode() ([]byte, error) {
	e := begin()
	e.U16(b.MaxXmit)
	e.U16(b.MaxRecv)
	e.U32(b.AssocGroup)
	if len(b.Contexts) > maxContexts {
		return nil, fmt.Errorf("bind with %d contexts: %w", len(b.Contexts), ErrTooLong)
	}
	e.U32(uint32(len(b.Contexts)))
	for _, c := range b.Contexts {
		if len(c.Transfer) > maxTransfers {
			return nil, fmt.Errorf("bind with %d transfer syntaxes: %w", len(c.Transfer), ErrTooLong)
		}
		e.U16(c.ID)
		e.U16(uint16(len(c.Transfer)))
		c.Abstract.put(e)
		for _, s := range c.Transfer {
			s.put(e)
		}
	}
	return e.finish(b.pduType(), FlagFirst|FlagLast, b.CallID)
}

// Decode reads a whole PDU.
func (b *Bind) Decode(pdu []byte) error {
	d, h, err := body(pdu, PDUBind, PDUAlterContext)
	if err != nil {
		return err
	}
	*b = Bind{CallID: h.CallID, Alter: h.Type == PDUAlterContext, AuthLength: h.AuthLength,
		MaxXmit: d.U16(), MaxRecv: d.U16(), AssocGroup: d.U32()}
	n := int(d.U32() & 0xFF)
	d.Check(n > 0 && n <= maxContexts)
	for range n {
		if d.err != nil {
			break
		}
		c := Context{ID: d.U16()}
		m := int(d.U16() & 0xFF)
		c.Abstract.get(d)
		d.Check(m > 0 && m <= maxTransfers)
		for range m {
			if d.err != nil {
				break
			}
			var s Syntax
			s.get(d)
			c.Transfer = append(c.Transfer, s)
		}
		b.Contexts = append(b.Contexts, c)
	}
	if d.err != nil {
		return fmt.Errorf("bind: %w", d.err)
	}
	return nil
}

// Results and reasons of a presentation context (C706 12.6.3.1, MS-RPCE 2.2.2.4).
const (
	ResultAcceptance        = 0
	ResultUserRejection     = 1
	ResultProviderRejection = 2
	ResultNegotiateAck      = 3

	ReasonNotSpecified     = 0
	ReasonAbstractSyntax   = 1
	ReasonTransferSyntaxes = 2
	ReasonLocalLimit       = 3
)

// Reasons of a bind_nak (C706 12.6.3.1, MS-RPCE 2.2.2.5).
const (
	NakNotSpecified       = 0
	NakProtocolVersion    = 4
	NakAuthenticationType = 8
)

// ContextResult answers one Context.
type ContextResult struct {
	Result   uint16
	Reason   uint16 // the features agreed on, with ResultNegotiateAck
	Transfer Syntax // zero unless accepted
}

// BindAck is a bind_ack or alter_context_resp PDU (C706 12.6.4.4).
type BindAck struct {
	CallID     uint32
	Alter      bool
	MaxXmit    uint16
	MaxRecv    uint16
	AssocGroup uint32
	Address    string // \PIPE\srvsvc; empty in an alter_context_resp
	Results    []ContextResult
}

// Encode returns the PDU.
func (b *BindAck) Encode() ([]byte, error) {
	e := begin()
	e.U16(b.MaxXmit)
	e.U16(b.MaxRecv)
	e.U32(b.AssocGroup)
	if b.Address == "" {
		e.U16(0)
	} else {
		e.U16(uint16(len(b.Address) + 1))
		e.Raw(append([]byte(b.Address), 0))
	}
	e.Align(4)
	e.U32(uint32(len(b.Results)))
	for _, r := range b.Results {
		e.U16(r.Result)
		e.U16(r.Reason)
		r.Transfer.put(e)
	}
	t := PDUBindAck
	if b.Alter {
		t = PDUAlterContextResp
	}
	return e.finish(t, FlagFirst|FlagLast, b.CallID)
}

// Decode reads a whole PDU.
func (b *BindAck) Decode(pdu []byte) error {
	d, h, err := body(pdu, PDUBindAck, PDUAlterContextResp)
	if err != nil {
		return err
	}
	*b = BindAck{CallID: h.CallID, Alter: h.Type == PDUAlterContextResp, MaxXmit: d.U16(), MaxRecv: d.U16(), AssocGroup: d.U32()}
	if n := int(d.U16()); n > 0 {
		address := d.Bytes(n)
		if d.err == nil {
			d.Check(address[n-1] == 0)
			b.Address = string(address[:n-1])
		}
	}
	d.Align(4)
	n := int(d.U32() & 0xFF)
	d.Check(n <= maxContexts)
	for range n {
		if d.err != nil {
			break
		}
		r := ContextResult{Result: d.U16(), Reason: d.U16()}
		r.Transfer.get(d)
		b.Results = append(b.Results, r)
	}
	if d.err != nil {
		return fmt.Errorf("bind_ack: %w", d.err)
	}
	return nil
}

// BindNak is a bind_nak PDU (C706 12.6.4.5).
type BindNak struct {
	CallID uint32
	Reason uint16
}

// Encode returns the PDU, which offers version 5.0.
func (b *BindNak) Encode() ([]byte, error) {
	e := begin()
	e.U16(b.Reason)
	e.Raw([]byte{1, 5, 0})
	e.Align(4)
	return e.finish(PDUBindNak, FlagFirst|FlagLast, b.CallID)
}

// Decode reads a whole PDU.
func (b *BindNak) Decode(pdu []byte) error {
	d, h, err := body(pdu, PDUBindNak)
	if err != nil {
		return err
	}
	*b = BindNak{CallID: h.CallID, Reason: d.U16()}
	if d.err != nil {
		return fmt.Errorf("bind_nak: %w", d.err)
	}
	return nil
}
