package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Bounds of a negotiation.
const (
	maxOptionData  = 32 << 10 // of an option that is looked at; a list of queries, as a rule
	maxNegotiation = 1 << 20  // bytes a client may send
)

// negotiation is the fixed newstyle handshake of one client.
type negotiation struct {
	c        *conn
	in       *input
	taken    int // bytes of options so far
	noZeroes bool
	fixed    bool
	secure   bool // TLS is under it

	structured bool
	context    string // export that base:allocation was selected for, if selected
	selected   bool
}

// Errors of negotiation that end a connection.
var (
	errAborted = errors.New("client ended the negotiation")
	errGo      = errors.New("negotiation is done")
)

// negotiate takes the client to the transmission phase, and returns what it sent
// since; nil if it does not want to go there.
func (c *conn) negotiate() (*input, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.opts.Limits.Handshake)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = c.raw.SetDeadline(deadline) // a closed socket shows at the first read
	if c.stopping.Load() {
		return nil, nil
	}
	g := &negotiation{c: c, in: newInput(c.nc)}
	err := g.run(ctx)
	if errors.Is(err, errAborted) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("negotiation: %w", err)
	}
	_ = c.raw.SetDeadline(time.Time{})
	if c.stopping.Load() { // it may have set one of its own
		return nil, nil
	}
	return g.in, nil
}

func (g *negotiation) run(ctx context.Context) error {
	b := binary.BigEndian.AppendUint64(nil, magicServer)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	if _, err := g.c.nc.Write(b); err != nil {
		return err
	}
	if err := g.in.need(4); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(g.in.next(4))
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("unknown client flags %#x", flags)
	}
	g.fixed, g.noZeroes = flags&flagFixedNewstyle != 0, flags&flagNoZeroes != 0
	for {
		err := g.option(ctx)
		if err == errGo {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// option reads and answers one option.
func (g *negotiation) option(ctx context.Context) error {
	if err := g.in.need(optionSize); err != nil {
		return err
	}
	h := g.in.next(optionSize)
	if m := binary.BigEndian.Uint64(h); m != magicOption {
		return fmt.Errorf("option with magic number %#x", m)
	}
	opt, n := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
	if n > maxNegotiation {
		return fmt.Errorf("option %d with %d bytes of data", opt, n)
	}
	if g.taken += optionSize + int(n); g.taken > maxNegotiation {
		return fmt.Errorf("more than %d bytes of options", maxNegotiation)
	}
	if n > maxOptionData {
		if err := g.in.skip(int(n)); err != nil {
			return err
		}
		if opt == optExportName || opt == optAbort {
			return fmt.Errorf("option %d with %d bytes of data", opt, n)
		}
		return g.refuse(opt, repErrTooBig, "too much data")
	}
	if err := g.in.need(int(n)); err != nil {
		return midway(err)
	}
	return g.dispatch(ctx, opt, g.in.next(int(n)))
}

func (g *negotiation) dispatch(ctx context.Context, opt uint32, data []byte) error {
	switch opt {
	case optAbort:
		_ = g.refuse(opt, repAck, "") // the client may be gone already
		return errAborted
	case optStartTLS:
		return g.startTLS(ctx, data)
	}
	if g.c.forceTLS && !g.secure {
		if opt == optExportName {
			return errors.New("client asks for an export without TLS")
		}
		return g.refuse(opt, repErrTLSReqd, "this server needs TLS")
	}
	if opt == optExportName {
		return g.exportName(data)
	}
	if !g.fixed {
		return fmt.Errorf("option %d of a client without fixed newstyle negotiation", opt)
	}
	if g.c.srv.isStopping() {
		return g.refuse(opt, repErrShutdown, "server is shutting down")
	}
	switch opt {
	case optList:
		return g.list(data)
	case optInfo, optGo:
		return g.info(opt, data)
	case optStructuredReply:
		if len(data) > 0 {
			return g.refuse(opt, repErrInvalid, "the option has no data")
		}
		g.structured = true
		return g.refuse(opt, repAck, "")
	case optListMetaContext, optSetMetaContext:
		return g.metaContext(opt, data)
	}
	return g.refuse(opt, repErrUnsup, "unknown option")
}

// appendReply appends a reply to an option.
func appendReply(b []byte, opt, kind uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, magicOptionReply)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// refuse sends a single reply with a text, an error as a rule.
func (g *negotiation) refuse(opt, kind uint32, text string) error {
	return g.send(appendReply(nil, opt, kind, []byte(text)))
}

func (g *negotiation) send(b []byte) error {
	_, err := g.c.nc.Write(b)
	return err
}

// startTLS puts TLS under the negotiation, which begins anew.
func (g *negotiation) startTLS(ctx context.Context, data []byte) error {
	switch {
	case len(data) > 0:
		return g.refuse(optStartTLS, repErrInvalid, "the option has no data")
	case g.secure:
		return g.refuse(optStartTLS, repErrInvalid, "TLS is in use already")
	case !g.c.forceTLS || !g.fixed:
		return g.refuse(optStartTLS, repErrPolicy, "no TLS here")
	case g.in.buffered() > 0:
		// It would be taken for something that came over TLS.
		return errors.New("client sent data between STARTTLS and TLS")
	}
	if err := g.refuse(optStartTLS, repAck, ""); err != nil {
		return err
	}
	if err := g.c.starttls(ctx); err != nil {
		return err
	}
	g.in = newInput(g.c.nc)
	g.secure, g.structured, g.selected, g.context = true, false, false, ""
	return nil
}

// list tells of all exports.
func (g *negotiation) list(data []byte) error {
	if len(data) > 0 {
		return g.refuse(optList, repErrInvalid, "the option has no data")
	}
	var b []byte
	for _, e := range g.c.srv.List() {
		item := binary.BigEndian.AppendUint32(nil, uint32(len(e.opts.Name)))
		item = append(append(item, e.opts.Name...), e.opts.Description...)
		if b = appendReply(b, optList, repServer, item); len(b) >= maxOptionData {
			if err := g.send(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	return g.send(appendReply(b, optList, repAck, nil))
}

// enter makes e the connection's export.
func (g *negotiation) enter(e *Export, name string) {
	c := g.c
	c.exp, c.structured = e, g.structured
	c.allocation = g.selected && g.context == name
}

// exportName is the old way to the transmission phase: it cannot be refused.
func (g *negotiation) exportName(data []byte) error {
	name := string(data)
	e := g.c.srv.find(name)
	if len(name) > maxString || e == nil || g.c.srv.isStopping() {
		return fmt.Errorf("client asks for export %.64q: %w", name, ErrUnknown)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(e.size))
	b = binary.BigEndian.AppendUint16(b, e.flags(g.structured))
	if !g.noZeroes {
		b = append(b, make([]byte, exportZeroes)...)
	}
	g.enter(e, name)
	if err := g.send(b); err != nil {
		return err
	}
	return errGo
}

// cursor takes an option's data apart.
type cursor struct {
	b   []byte
	bad bool // the data was too short
}

func (c *cursor) bytes(n uint32) []byte {
	if c.bad || uint64(n) > uint64(len(c.b)) {
		c.bad = true
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) uint16() uint16 {
	if p := c.bytes(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if p := c.bytes(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

// string takes a length and a string; longer ones than the protocol has are bad.
func (c *cursor) string() string {
	n := c.uint32()
	if n > maxString {
		c.bad = true
	}
	return string(c.bytes(n))
}

// info answers INFO and GO.
func (g *negotiation) info(opt uint32, data []byte) error {
	cur := cursor{b: data}
	name := cur.string()
	wants := map[uint16]bool{}
	for range cur.uint16() {
		item := cur.uint16()
		if cur.bad {
			break
		}
		wants[item] = true
	}
	if cur.bad || len(cur.b) > 0 {
		return g.refuse(opt, repErrInvalid, "malformed request")
	}
	e := g.c.srv.find(name)
	if e == nil {
		return g.refuse(opt, repErrUnknown, "no such export")
	}
	item := binary.BigEndian.AppendUint16(nil, infoExport)
	item = binary.BigEndian.AppendUint64(item, uint64(e.size))
	item = binary.BigEndian.AppendUint16(item, e.flags(g.structured))
	b := appendReply(nil, opt, repInfo, item)

	least, preferred, most := e.blockSizes()
	item = binary.BigEndian.AppendUint16(item[:0], infoBlockSize)
	item = binary.BigEndian.AppendUint32(item, least)
	item = binary.BigEndian.AppendUint32(item, preferred)
	item = binary.BigEndian.AppendUint32(item, most)
	b = appendReply(b, opt, repInfo, item)

	if wants[infoName] {
		b = appendReply(b, opt, repInfo, append(binary.BigEndian.AppendUint16(nil, infoName), e.opts.Name...))
	}
	if wants[infoDescription] && e.opts.Description != "" {
		b = appendReply(b, opt, repInfo, append(binary.BigEndian.AppendUint16(nil, infoDescription), e.opts.Description...))
	}
	b = appendReply(b, opt, repAck, nil)
	if opt == optInfo {
		return g.send(b)
	}
	g.enter(e, name)
	if wants[infoBlockSize] { // who did not ask is not bound by it
		g.c.align = int64(least)
	}
	if err := g.send(b); err != nil {
		return err
	}
	return errGo
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (g *negotiation) metaContext(opt uint32, data []byte) error {
	set := opt == optSetMetaContext
	if set {
		g.selected, g.context = false, "" // even if it fails
	}
	if !g.structured {
		return g.refuse(opt, repErrInvalid, "structured replies come first")
	}
	cur := cursor{b: data}
	name := cur.string()
	queries := cur.uint32()
	found := queries == 0 && !set
	for range queries {
		q := cur.string()
		if cur.bad {
			break
		}
		found = found || q == contextAllocation || q == "base:" && !set
	}
	if cur.bad || len(cur.b) > 0 {
		return g.refuse(opt, repErrInvalid, "malformed request")
	}
	if g.c.srv.find(name) == nil {
		return g.refuse(opt, repErrUnknown, "no such export")
	}
	var b []byte
	if found {
		id := uint32(0) // "reserved" in a list
		if set {
			id, g.selected, g.context = contextID, true, name
		}
		b = appendReply(b, opt, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), contextAllocation...))
	}
	return g.send(appendReply(b, opt, repAck, nil))
}
