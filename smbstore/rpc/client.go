package rpc

import (
	"context"
	"fmt"
)

// Transport carries whole PDUs, as a pipe in message mode does.
type Transport interface {
	Send(ctx context.Context, pdu []byte) error
	// Receive returns the next PDU; the Client uses it until it receives again.
	Receive(ctx context.Context) ([]byte, error)
}

// Client is the client's side of one association with one interface. Not for
// concurrent use.
type Client struct {
	t       Transport
	call    uint32
	maxXmit int
}

// Connect binds to an interface over t. ErrRejected if the server does not offer it.
func Connect(ctx context.Context, t Transport, iface Syntax) (*Client, error) {
	c := &Client{t: t, call: 1, maxXmit: MinFragment}
	pdu, err := (&Bind{CallID: c.call, MaxXmit: ServerFragment, MaxRecv: ServerFragment,
		Contexts: []Context{{Abstract: iface, Transfer: []Syntax{SyntaxNDR}}}}).Encode()
	if err != nil {
		return nil, err
	}
	if err := t.Send(ctx, pdu); err != nil {
		return nil, err
	}
	if pdu, err = t.Receive(ctx); err != nil {
		return nil, err
	}
	var nak BindNak
	if nak.Decode(pdu) == nil {
		return nil, fmt.Errorf("bind to %v refused for reason %d: %w", iface.UUID, nak.Reason, ErrRejected)
	}
	var ack BindAck
	if err := ack.Decode(pdu); err != nil {
		return nil, err
	}
	if len(ack.Results) != 1 || ack.CallID != c.call {
		return nil, fmt.Errorf("bind_ack for call %d with %d results: %w", ack.CallID, len(ack.Results), ErrProtocol)
	}
	if r := ack.Results[0]; r.Result != ResultAcceptance || r.Transfer != SyntaxNDR {
		return nil, fmt.Errorf("bind to %v: result %d, reason %d: %w", iface.UUID, r.Result, r.Reason, ErrRejected)
	}
	c.maxXmit = min(max(int(ack.MaxRecv), MinFragment), ServerFragment)
	return c, nil
}

// Call performs one operation and returns the decoder of its results. A fault is
// an error of type Fault. Results beyond MaxStub are ErrTooLong.
func (c *Client) Call(ctx context.Context, opnum uint16, encode func(*Encoder)) (*Decoder, error) {
	in := NewEncoder(MaxStub)
	encode(in)
	stub, err := in.Bytes()
	if err != nil {
		return nil, err
	}
	c.call++
	pdus, err := fragments(stub, c.maxXmit, func(flags uint8, rest int, part []byte) ([]byte, error) {
		return (&Request{CallID: c.call, Flags: flags, AllocHint: uint32(rest), Opnum: opnum, Stub: part}).Encode()
	})
	if err != nil {
		return nil, err
	}
	for _, p := range pdus {
		if err := c.t.Send(ctx, p); err != nil {
			return nil, err
		}
	}
	return c.results(ctx)
}

func (c *Client) results(ctx context.Context) (*Decoder, error) {
	var out assembly
	for {
		pdu, err := c.t.Receive(ctx)
		if err != nil {
			return nil, err
		}
		var fault FaultPDU
		if fault.Decode(pdu) == nil && fault.CallID == c.call {
			return nil, fault.Status
		}
		var r Response
		if err := r.Decode(pdu); err != nil {
			return nil, err
		}
		if r.CallID != c.call {
			return nil, fmt.Errorf("response to call %d, not %d: %w", r.CallID, c.call, ErrProtocol)
		}
		done, err := out.add(r.CallID, r.Flags, r.ContextID, 0, r.Stub)
		if err != nil {
			return nil, err
		}
		if out.tooLong {
			return nil, fmt.Errorf("results of call %d: %w", c.call, ErrTooLong)
		}
		if done {
			return NewDecoder(out.stub), nil
		}
	}
}
