package rpc

import (
	"fmt"
	"slices"
)

// Request is one fragment of a request PDU (C706 12.6.4.9). Stub is a view.
type Request struct {
	CallID    uint32
	Flags     uint8 // FlagFirst, FlagLast
	AllocHint uint32
	ContextID uint16
	Opnum     uint16
	Object    *UUID
	Stub      []byte
}

// requestFixed is the header of a request or response fragment without object.
const requestFixed = HeaderSize + 8

// Encode returns the PDU. ErrTooLong if it does not fit a fragment.
func (r *Request) Encode() ([]byte, error) {
	e := begin()
	e.U32(r.AllocHint)
	e.U16(r.ContextID)
	e.U16(r.Opnum)
	flags := r.Flags &^ FlagObjectUUID
	if r.Object != nil {
		flags |= FlagObjectUUID
		e.Raw(r.Object[:])
	}
	e.Raw(r.Stub)
	return e.finish(PDURequest, flags, r.CallID)
}

// Decode reads a whole PDU.
func (r *Request) Decode(pdu []byte) error {
	d, h, err := body(pdu, PDURequest)
	if err != nil {
		return err
	}
	*r = Request{CallID: h.CallID, Flags: h.Flags, AllocHint: d.U32(), ContextID: d.U16(), Opnum: d.U16()}
	if h.Flags&FlagObjectUUID != 0 {
		r.Object = new(UUID)
		copy(r.Object[:], d.Bytes(16))
	}
	r.Stub = d.Bytes(d.Len())
	if d.err != nil {
		return fmt.Errorf("request: %w", d.err)
	}
	return nil
}

// Response is one fragment of a response PDU (C706 12.6.4.10). Stub is a view.
type Response struct {
	CallID    uint32
	Flags     uint8
	AllocHint uint32
	ContextID uint16
	Stub      []byte
}

// Encode returns the PDU. ErrTooLong if it does not fit a fragment.
func (r *Response) Encode() ([]byte, error) {
	e := begin()
	e.U32(r.AllocHint)
	e.U16(r.ContextID)
	e.U16(0)
	e.Raw(r.Stub)
	return e.finish(PDUResponse, r.Flags, r.CallID)
}

// Decode reads a whole PDU.
func (r *Response) Decode(pdu []byte) error {
	d, h, err := body(pdu, PDUResponse)
	if err != nil {
		return err
	}
	*r = Response{CallID: h.CallID, Flags: h.Flags, AllocHint: d.U32(), ContextID: d.U16()}
	d.U16()
	r.Stub = d.Bytes(d.Len())
	if d.err != nil {
		return fmt.Errorf("response: %w", d.err)
	}
	return nil
}

// FaultPDU is a fault PDU (C706 12.6.4.7).
type FaultPDU struct {
	CallID    uint32
	Flags     uint8 // FlagFirst, FlagLast, FlagDidNotExecute
	ContextID uint16
	Status    Fault
}

// Encode returns the PDU.
func (f *FaultPDU) Encode() ([]byte, error) {
	e := begin()
	e.U32(0)
	e.U16(f.ContextID)
	e.U16(0)
	e.U32(uint32(f.Status))
	e.U32(0)
	return e.finish(PDUFault, f.Flags, f.CallID)
}

// Decode reads a whole PDU.
func (f *FaultPDU) Decode(pdu []byte) error {
	d, h, err := body(pdu, PDUFault)
	if err != nil {
		return err
	}
	*f = FaultPDU{CallID: h.CallID, Flags: h.Flags}
	d.U32()
	f.ContextID = d.U16()
	d.U16()
	f.Status = Fault(d.U32())
	if d.err != nil {
		return fmt.Errorf("fault: %w", d.err)
	}
	return nil
}

// chunk is the stub bytes of one fragment of at most max bytes: all but the
// last carry a multiple of 8 (C706 12.6.2).
func chunk(maxFragment int) int { return (maxFragment - requestFixed) &^ 7 }

// fragments cuts a stub into PDUs of at most maxFragment bytes; an empty one makes one PDU.
func fragments(stub []byte, maxFragment int, encode func(flags uint8, rest int, part []byte) ([]byte, error)) ([][]byte, error) {
	var out [][]byte
	rest, flags := len(stub), uint8(FlagFirst)
	send := func(part []byte) error {
		if rest == len(part) {
			flags |= FlagLast
		}
		pdu, err := encode(flags, rest, part)
		out = append(out, pdu)
		rest -= len(part)
		flags = 0
		return err
	}
	if len(stub) == 0 {
		return out, send(nil)
	}
	for part := range slices.Chunk(stub, chunk(maxFragment)) {
		if err := send(part); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// assembly puts the fragments of one call together.
type assembly struct {
	active  bool
	tooLong bool
	call    uint32
	context uint16
	opnum   uint16
	stub    []byte
}

// add takes one fragment. done tells that the call is whole, or was too long
// and has ended. ErrProtocol for a fragment that does not belong.
func (a *assembly) add(call uint32, flags uint8, context, opnum uint16, stub []byte) (done bool, err error) {
	switch first := flags&FlagFirst != 0; {
	case first == a.active:
		return false, fmt.Errorf("fragment of call %d out of order: %w", call, ErrProtocol)
	case first:
		*a = assembly{active: true, call: call, context: context, opnum: opnum, stub: a.stub[:0]}
	case call != a.call || context != a.context || opnum != a.opnum:
		return false, fmt.Errorf("fragment of call %d within call %d: %w", call, a.call, ErrProtocol)
	}
	if len(stub) > MaxStub-len(a.stub) {
		a.tooLong = true
	}
	if !a.tooLong {
		a.stub = append(a.stub, stub...)
	}
	if flags&FlagLast == 0 {
		return false, nil
	}
	a.active = false
	return true, nil
}
