package rpc

import (
	"context"
	"errors"
	"fmt"
)

// Interface is what a server offers: one abstract syntax and its operations.
type Interface struct {
	Syntax Syntax
	// Call performs one operation: it reads the parameters from in and writes
	// the results to out. An error that is a Fault becomes a fault PDU with it,
	// ErrTruncated, ErrInvalid and ErrTooLong become FaultBadStub, any other
	// FaultNoMemory. It must not keep the bytes of in.
	Call func(ctx context.Context, opnum uint16, in *Decoder, out *Encoder) error
}

// Server is the server's side of one association: one open pipe. Not for
// concurrent use.
type Server struct {
	address    string
	interfaces []*Interface
	contexts   map[uint16]*Interface
	bound      bool
	maxXmit    int // bytes of the fragments we send
	in         assembly
}

// ServerFragment is the fragment size a Server asks for, that of other servers.
const ServerFragment = 4280

// NewServer returns the server's side of an association on the pipe address
// (\PIPE\srvsvc) that offers interfaces.
func NewServer(address string, interfaces ...*Interface) *Server {
	return &Server{address: address, interfaces: interfaces, contexts: map[uint16]*Interface{}, maxXmit: MinFragment}
}

// Receive takes one whole PDU and returns the PDUs to answer with, in order;
// none while a call is incomplete. An error (ErrProtocol and those of Decode)
// ends the association: the pipe is to be closed.
func (s *Server) Receive(ctx context.Context, pdu []byte) ([][]byte, error) {
	var h Header
	if err := h.Decode(pdu); err != nil {
		return nil, err
	}
	switch h.Type {
	case PDUBind, PDUAlterContext:
		return s.bind(pdu)
	case PDURequest:
		return s.request(ctx, pdu)
	case PDUCancel, PDUOrphaned:
		return nil, nil // calls are answered before anything else is read
	}
	return nil, fmt.Errorf("PDU of type %d from a client: %w", h.Type, ErrProtocol)
}

func one(pdu []byte, err error) ([][]byte, error) {
	if err != nil {
		return nil, err
	}
	return [][]byte{pdu}, nil
}

func (s *Server) bind(pdu []byte) ([][]byte, error) {
	var b Bind
	if err := b.Decode(pdu); err != nil {
		return nil, err
	}
	if b.Alter != s.bound {
		return nil, fmt.Errorf("bind twice, or alter_context without a bind: %w", ErrProtocol)
	}
	if b.AuthLength > 0 {
		return one((&BindNak{CallID: b.CallID, Reason: NakAuthenticationType}).Encode())
	}
	ack := BindAck{CallID: b.CallID, Alter: b.Alter, AssocGroup: b.AssocGroup, MaxXmit: ServerFragment, MaxRecv: ServerFragment}
	if !b.Alter {
		s.bound = true
		s.maxXmit = min(max(int(b.MaxRecv), MinFragment), ServerFragment)
		ack.Address = s.address
		if ack.AssocGroup == 0 {
			ack.AssocGroup = 1 // handles are not shared between associations, so that one group is as good as any
		}
	}
	ack.MaxXmit = uint16(s.maxXmit)
	for _, c := range b.Contexts {
		ack.Results = append(ack.Results, s.present(c))
	}
	return one(ack.Encode())
}

// present decides on one presentation context (C706 12.6.4.4, MS-RPCE 3.3.1.5.3).
func (s *Server) present(c Context) ContextResult {
	if c.Transfer[0].isBindTimeFeatures() {
		return ContextResult{Result: ResultNegotiateAck} // none of the features
	}
	var found *Interface
	for _, i := range s.interfaces {
		if i.Syntax.UUID == c.Abstract.UUID && i.Syntax.Major == c.Abstract.Major && i.Syntax.Minor >= c.Abstract.Minor {
			found = i
		}
	}
	if found == nil {
		return ContextResult{Result: ResultProviderRejection, Reason: ReasonAbstractSyntax}
	}
	for _, t := range c.Transfer {
		if t != SyntaxNDR {
			continue
		}
		if _, again := s.contexts[c.ID]; !again && len(s.contexts) >= maxContexts {
			return ContextResult{Result: ResultProviderRejection, Reason: ReasonLocalLimit}
		}
		s.contexts[c.ID] = found
		return ContextResult{Result: ResultAcceptance, Transfer: SyntaxNDR}
	}
	return ContextResult{Result: ResultProviderRejection, Reason: ReasonTransferSyntaxes}
}

func (s *Server) request(ctx context.Context, pdu []byte) ([][]byte, error) {
	var r Request
	if err := r.Decode(pdu); err != nil {
		return nil, err
	}
	if !s.bound {
		return nil, fmt.Errorf("request before bind: %w", ErrProtocol)
	}
	done, err := s.in.add(r.CallID, r.Flags, r.ContextID, r.Opnum, r.Stub)
	if err != nil || !done {
		return nil, err
	}
	fault := FaultPDU{CallID: r.CallID, Flags: FlagFirst | FlagLast | FlagDidNotExecute, ContextID: r.ContextID}
	if s.in.tooLong {
		fault.Status = FaultNoMemory
		return one(fault.Encode())
	}
	i := s.contexts[r.ContextID]
	if i == nil {
		fault.Status = FaultUnknownInterface
		return one(fault.Encode())
	}
	out := NewEncoder(MaxStub)
	err = i.Call(ctx, s.in.opnum, NewDecoder(s.in.stub), out)
	if err == nil {
		_, err = out.Bytes()
	}
	if err != nil {
		fault.Flags &^= FlagDidNotExecute
		fault.Status = faultOf(err)
		return one(fault.Encode())
	}
	return fragments(out.b, s.maxXmit, func(flags uint8, rest int, part []byte) ([]byte, error) {
		return (&Response{CallID: r.CallID, Flags: flags, AllocHint: uint32(rest), ContextID: r.ContextID, Stub: part}).Encode()
	})
}

func faultOf(err error) Fault {
	var f Fault
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, ErrTruncated), errors.Is(err, ErrInvalid), errors.Is(err, ErrTooLong):
		return FaultBadStub
	}
	return FaultNoMemory
}
