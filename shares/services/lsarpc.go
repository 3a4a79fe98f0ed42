package services

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"

	"lunless/shares/accounts"
	"lunless/smbstore/fscc"
	"lunless/smbstore/rpc"
)

// policies are the policy handles open on one pipe, with the access each has.
// They end with the pipe.
type policies map[rpc.Handle]uint32

// maxPolicies bounds the handles of a pipe; clients open one or two.
const maxPolicies = 64

// Access to the policy (MS-LSAD 2.2.1.1.2).
const (
	policyViewLocal   = 0x00000001
	policyLookupNames = 0x00000800
	policyReadControl = 0x00020000
	policyGeneric     = 0xF2000000 // generic rights and MAXIMUM_ALLOWED

	// policyRead is what everybody but anonymous callers may do, and all that is
	// offered here to anyone.
	policyRead = policyViewLocal | policyLookupNames | policyReadControl
)

// lsarpc performs the operations of MS-LSAT 3.1.4 and those of MS-LSAD 3.1.4 that
// only tell. Nothing is changed through it.
func (c *calls) lsarpc(_ context.Context, opnum uint16, in *rpc.Decoder, out *rpc.Encoder) error {
	switch opnum {
	case rpc.OpLsarOpenPolicy, rpc.OpLsarOpenPolicy2:
		return c.openPolicy(in, out, opnum == rpc.OpLsarOpenPolicy)
	case rpc.OpLsarClose:
		return c.closePolicy(in, out)
	case rpc.OpLsarQueryInformationPolicy, rpc.OpLsarQueryInformationPolicy2:
		return c.queryPolicy(in, out)
	case rpc.OpLsarGetUserName:
		return c.userName(in, out)
	case rpc.OpLsarLookupSids, rpc.OpLsarLookupSids2, rpc.OpLsarLookupSids3:
		return c.lookupSIDs(opnum, in, out)
	case rpc.OpLsarLookupNames, rpc.OpLsarLookupNames2, rpc.OpLsarLookupNames3, rpc.OpLsarLookupNames4:
		return c.lookupNames(opnum, in, out)
	}
	return c.lsaRights(opnum, in, out)
}

// openPolicy is LsarOpenPolicy2 and LsarOpenPolicy (MS-LSAT 3.1.4.1, MS-LSAD 3.1.4.4.1).
func (c *calls) openPolicy(in *rpc.Decoder, out *rpc.Encoder, old bool) error {
	q := rpc.OpenPolicyRequest{Old: old}
	if err := q.Decode(in); err != nil {
		return err
	}
	var a rpc.HandleReply
	switch {
	case q.Rooted:
		a.Status = rpc.StatusLsaInvalidParameter
	case c.caller.Anonymous, q.Access&^(policyRead|policyGeneric) != 0 && !c.caller.Admin:
		a.Status = rpc.StatusLsaAccessDenied
	case len(c.policies) >= maxPolicies:
		a.Status = rpc.StatusTooManyHandles
	default:
		rand.Read(a.Handle[4:])
		granted := q.Access & policyRead
		if q.Access&policyGeneric != 0 {
			granted = policyRead
		}
		if c.policies == nil {
			c.policies = policies{}
		}
		c.policies[a.Handle] = granted
	}
	a.Encode(out)
	return nil
}

// closePolicy is LsarClose (MS-LSAT 3.1.4.3).
func (c *calls) closePolicy(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.HandleRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	if _, ok := c.policies[q.Handle]; !ok {
		return rpc.FaultContextMismatch
	}
	delete(c.policies, q.Handle)
	var a rpc.HandleReply
	a.Encode(out)
	return nil
}

// mayUsePolicy decides whether a handle is one and lets do what need says.
func (c *calls) mayUsePolicy(h rpc.Handle, need uint32) (rpc.Status, error) {
	granted, ok := c.policies[h]
	switch {
	case !ok:
		return 0, rpc.FaultContextMismatch
	case need&^granted != 0:
		return rpc.StatusLsaAccessDenied, nil
	}
	return rpc.StatusOK, nil
}

// queryPolicy is LsarQueryInformationPolicy (MS-LSAD 3.1.4.4.3) of a machine that
// belongs to no domain: its primary domain is the workgroup, which has no SID.
func (c *calls) queryPolicy(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.QueryPolicyRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	status, err := c.mayUsePolicy(q.Policy, policyViewLocal)
	if err != nil {
		return err
	}
	a := rpc.QueryPolicyReply{Class: q.Class, Status: status}
	if status == rpc.StatusOK {
		s := c.backend.Server()
		switch q.Class {
		case rpc.PolicyPrimaryDomain, rpc.PolicyDNSDomain:
			a.Info = &rpc.PolicyInfo{Name: s.Group}
		case rpc.PolicyAccountDomain:
			machine, err := c.backend.Accounts().MachineSID()
			if err != nil {
				return err
			}
			a.Info = &rpc.PolicyInfo{Name: s.Name, SID: machine}
		case rpc.PolicyServerRole:
			a.Info = &rpc.PolicyInfo{Role: rpc.PolicyRoleServer}
		default:
			a.Status = rpc.StatusLsaInvalidParameter
		}
	}
	a.Encode(out)
	return nil
}

// userName is LsarGetUserName (MS-LSAT 3.1.4.4).
func (c *calls) userName(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.UserNameRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	a := rpc.UserNameReply{User: c.caller.User, Domain: c.backend.Server().Name, WantDomain: q.WantDomain}
	if c.caller.Anonymous {
		n, err := c.backend.Accounts().LookupSID(fscc.SIDAnonymous)
		if err != nil {
			return err
		}
		a.User, a.Domain = n.Name, n.Domain
	}
	a.Encode(out)
	return nil
}

// mayLookUp decides whether a look-up is answered (MS-LSAT 3.1.4.5, 3.1.4.9): those
// without a policy handle are for domain controllers alone.
func (c *calls) mayLookUp(op uint16, h rpc.Handle, level uint16) (rpc.Status, error) {
	if op == rpc.OpLsarLookupSids3 || op == rpc.OpLsarLookupNames4 {
		return rpc.StatusInvalidServerState, nil
	}
	status, err := c.mayUsePolicy(h, policyLookupNames)
	if err == nil && status == rpc.StatusOK && (level < rpc.LookupWksta || level > rpc.LookupXForestResolve) {
		status = rpc.StatusLsaInvalidParameter
	}
	return status, err
}

// lookup collects the results of a look-up.
type lookup struct {
	names   *accounts.Store
	server  string
	machine fscc.SID
	domains []rpc.ReferencedDomain
	mapped  int
}

func (c *calls) newLookup() (*lookup, error) {
	l := &lookup{names: c.backend.Accounts(), server: c.backend.Server().Name, domains: []rpc.ReferencedDomain{}}
	machine, err := l.names.MachineSID()
	l.machine = machine
	return l, err
}

// status says how much of total has been found.
func (l *lookup) status(total int) rpc.Status {
	switch {
	case l.mapped == total:
		return rpc.StatusOK
	case l.mapped == 0:
		return rpc.StatusNoneMapped
	}
	return rpc.StatusSomeNotMapped
}

// domain is the index of a referenced domain, which is added if it is new.
func (l *lookup) domain(d rpc.ReferencedDomain) int32 {
	i := slices.Index(l.domains, d)
	if i < 0 {
		i = len(l.domains)
		l.domains = append(l.domains, d)
	}
	return int32(i)
}

// describe completes a name: what the machine itself keeps is in the domain
// that has the server's name.
func (l *lookup) describe(n accounts.Name) (name string, domain int32) {
	d := rpc.ReferencedDomain{Name: n.Domain, SID: n.SID.Domain()}
	switch {
	case n.SID == l.machine:
		n.Name = l.server
		d = rpc.ReferencedDomain{Name: l.server, SID: n.SID}
	case n.Use == accounts.UseDomain:
		d = rpc.ReferencedDomain{Name: n.Name, SID: n.SID}
	case d.SID == l.machine:
		d.Name = l.server
	}
	return n.Name, l.domain(d)
}

// lookupSIDs is LsarLookupSids and its successors (MS-LSAT 3.1.4.9 to 3.1.4.11).
func (c *calls) lookupSIDs(op uint16, in *rpc.Decoder, out *rpc.Encoder) error {
	q := rpc.LookupSidsRequest{Op: op}
	if err := q.Decode(in); err != nil {
		return err
	}
	a := rpc.LookupSidsReply{Op: op}
	status, err := c.mayLookUp(op, q.Policy, q.Level)
	if err != nil {
		return err
	}
	if a.Status = status; status != rpc.StatusOK {
		a.Encode(out)
		return nil
	}
	l, err := c.newLookup()
	if err != nil {
		return err
	}
	for _, sid := range q.SIDs {
		n, err := l.names.LookupSID(sid)
		switch {
		case err == nil:
			t := rpc.TranslatedName{Use: uint16(n.Use)}
			t.Name, t.Domain = l.describe(n)
			a.Names = append(a.Names, t)
			l.mapped++
		case errors.Is(err, accounts.ErrNoName):
			a.Names = append(a.Names, l.unknown(sid, q.Level))
		default:
			return err
		}
	}
	a.Domains, a.Mapped, a.Status = l.domains, uint32(l.mapped), l.status(len(q.SIDs))
	a.Encode(out)
	return nil
}

// unknown stands for a SID without a name: its number in the domain, where that
// is known, or the SID itself (MS-LSAT 3.1.4.9).
func (l *lookup) unknown(sid fscc.SID, level uint16) rpc.TranslatedName {
	t := rpc.TranslatedName{Use: rpc.SIDUseUnknown, Domain: rpc.NoDomain}
	if d, err := l.names.LookupSID(sid.Domain()); err == nil && d.Use == accounts.UseDomain {
		_, t.Domain = l.describe(d)
		if level == rpc.LookupWksta {
			t.Name = hexRID(sid.RID())
		}
	} else if level == rpc.LookupWksta {
		t.Name = sid.String()
	}
	return t
}

func hexRID(rid uint32) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 8)
	for i := range b {
		b[7-i] = digits[rid>>(4*i)&15]
	}
	return string(b)
}

// lookupNames is LsarLookupNames and its successors (MS-LSAT 3.1.4.5 to 3.1.4.8).
func (c *calls) lookupNames(op uint16, in *rpc.Decoder, out *rpc.Encoder) error {
	q := rpc.LookupNamesRequest{Op: op}
	if err := q.Decode(in); err != nil {
		return err
	}
	a := rpc.LookupNamesReply{Op: op}
	status, err := c.mayLookUp(op, q.Policy, q.Level)
	if err != nil {
		return err
	}
	if a.Status = status; status != rpc.StatusOK {
		a.Encode(out)
		return nil
	}
	l, err := c.newLookup()
	if err != nil {
		return err
	}
	for _, name := range q.Names {
		n, err := l.find(name)
		switch {
		case err == nil:
			t := rpc.TranslatedSID{Use: uint16(n.Use), SID: n.SID, RID: n.SID.RID()}
			if n.Use == accounts.UseDomain {
				t.RID = ^uint32(0)
			}
			_, t.Domain = l.describe(n)
			a.SIDs = append(a.SIDs, t)
			l.mapped++
		case errors.Is(err, accounts.ErrNoName):
			a.SIDs = append(a.SIDs, rpc.TranslatedSID{Use: rpc.SIDUseUnknown, Domain: rpc.NoDomain})
		default:
			return err
		}
	}
	a.Domains, a.Mapped, a.Status = l.domains, uint32(l.mapped), l.status(len(q.Names))
	a.Encode(out)
	return nil
}

// find looks up NAME, DOMAIN\NAME or NAME@DOMAIN.
func (l *lookup) find(text string) (accounts.Name, error) {
	domain, name, ok := strings.Cut(text, `\`)
	if !ok {
		domain, name = "", text
		if i := strings.LastIndexByte(text, '@'); i > 0 {
			name, domain = text[:i], text[i+1:]
		}
	}
	switch {
	case name == "" && domain != "": // DOMAIN\
		name, domain = domain, ""
	case domain == ".":
		domain = l.server
	}
	isServer := fscc.EqualNames(domain, l.server)
	if domain == "" && fscc.EqualNames(name, l.server) {
		return l.names.LookupSID(l.machine)
	}
	if domain != "" && !isServer && !l.isAuthority(domain) {
		return accounts.Name{}, accounts.ErrNoName
	}
	return l.names.LookupName(domain, name)
}

// isAuthority says whether well-known names are in the domain.
func (l *lookup) isAuthority(domain string) bool {
	return strings.EqualFold(domain, "BUILTIN") || strings.EqualFold(domain, "NT AUTHORITY")
}
