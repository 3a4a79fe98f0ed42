package rpc

import "lunless/smbstore/fscc"

// Classes of policy information offered here (MS-LSAD 2.2.4.1).
const (
	PolicyPrimaryDomain = 3
	PolicyAccountDomain = 5
	PolicyServerRole    = 6
	PolicyDNSDomain     = 12
)

// PolicyRoleServer is the role of a server that holds the only copy of its
// accounts: PolicyServerRolePrimary (MS-LSAD 2.2.4.8).
const PolicyRoleServer = 3

// QueryPolicyRequest are the parameters of LsarQueryInformationPolicy and
// LsarQueryInformationPolicy2 (MS-LSAD 3.1.4.4.3, 3.1.4.4.4).
type QueryPolicyRequest struct {
	Policy Handle
	Class  uint16
}

// Encode writes the parameters.
func (r *QueryPolicyRequest) Encode(e *Encoder) {
	e.Handle(r.Policy)
	e.U16(r.Class)
}

// Decode reads the parameters.
func (r *QueryPolicyRequest) Decode(d *Decoder) error {
	*r = QueryPolicyRequest{Policy: d.Handle(), Class: d.U16()}
	return d.Done()
}

// PolicyInfo is what a policy says; each class carries the fields it has (MS-LSAD
// 2.2.4.5, 2.2.4.6, 2.2.4.8, 2.2.4.14).
type PolicyInfo struct {
	Name      string   // PolicyPrimaryDomain, PolicyAccountDomain, PolicyDNSDomain
	SID       fscc.SID // the same; zero: none
	DNSName   string   // PolicyDNSDomain
	DNSForest string   // PolicyDNSDomain
	GUID      UUID     // PolicyDNSDomain
	Role      uint16   // PolicyServerRole
}

// PolicyClass reports whether a class is offered here.
func PolicyClass(class uint16) bool {
	switch class {
	case PolicyPrimaryDomain, PolicyAccountDomain, PolicyServerRole, PolicyDNSDomain:
		return true
	}
	return false
}

func (i *PolicyInfo) put(e *Encoder, class uint16) {
	if class == PolicyServerRole {
		e.U16(i.Role)
		return
	}
	dns := class == PolicyDNSDomain
	e.unicodeHeader(i.Name)
	if dns {
		e.unicodeHeader(i.DNSName)
		e.unicodeHeader(i.DNSForest)
		e.Raw(i.GUID[:])
	}
	e.Pointer(!i.SID.IsZero())
	e.unicode(i.Name)
	if dns {
		e.unicode(i.DNSName)
		e.unicode(i.DNSForest)
	}
	if !i.SID.IsZero() {
		e.SID(i.SID)
	}
}

func (i *PolicyInfo) get(d *Decoder, class uint16) {
	if class == PolicyServerRole {
		i.Role = d.U16()
		return
	}
	var name, domain, forest unicodeHeader
	dns := class == PolicyDNSDomain
	name = d.unicodeHeader()
	if dns {
		domain, forest = d.unicodeHeader(), d.unicodeHeader()
		copy(i.GUID[:], d.Bytes(len(i.GUID)))
	}
	sid := d.Pointer()
	i.Name = d.unicode(name)
	if dns {
		i.DNSName, i.DNSForest = d.unicode(domain), d.unicode(forest)
	}
	if sid {
		i.SID = d.SID()
	}
}

// policyArm is the alignment of the union: that of its widest arm, which holds a
// 64-bit time (C706 14.3.8).
const policyArm = 8

// QueryPolicyReply are the results of LsarQueryInformationPolicy.
type QueryPolicyReply struct {
	Class  uint16      // of Info
	Info   *PolicyInfo // nil with an error
	Status Status
}

// Encode writes the results.
func (r *QueryPolicyReply) Encode(e *Encoder) {
	present := r.Info != nil && PolicyClass(r.Class)
	e.Pointer(present)
	if present {
		e.U16(r.Class)
		e.Align(policyArm)
		r.Info.put(e, r.Class)
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *QueryPolicyReply) Decode(d *Decoder) error {
	*r = QueryPolicyReply{}
	if d.Pointer() {
		r.Class = d.U16()
		if d.Check(PolicyClass(r.Class)); d.err != nil {
			return d.err
		}
		d.Align(policyArm)
		r.Info = new(PolicyInfo)
		r.Info.get(d, r.Class)
	}
	r.Status = Status(d.U32())
	return d.Done()
}

// LUID names a privilege on a machine (MS-LSAD 3.1.1.2.1).
type LUID uint64

func (d *Decoder) luid() LUID {
	low := d.U32()
	return LUID(low) | LUID(d.U32())<<32
}

func (e *Encoder) luid(l LUID) {
	e.U32(uint32(l))
	e.U32(uint32(l >> 32))
}

// Privilege is a privilege with its name, SeBackupPrivilege.
type Privilege struct {
	Name string
	LUID LUID
}

// EnumRequest are the parameters of LsarEnumeratePrivileges (MS-LSAD 3.1.4.8.1)
// and LsarEnumerateAccounts (3.1.4.5.2).
type EnumRequest struct {
	Policy       Handle
	Resume       uint32
	PreferredMax uint32 // bytes of the answer
}

// Encode writes the parameters.
func (r *EnumRequest) Encode(e *Encoder) {
	e.Handle(r.Policy)
	e.U32(r.Resume)
	e.U32(r.PreferredMax)
}

// Decode reads the parameters.
func (r *EnumRequest) Decode(d *Decoder) error {
	*r = EnumRequest{Policy: d.Handle(), Resume: d.U32(), PreferredMax: d.U32()}
	return d.Done()
}

// EnumPrivilegesReply are the results of LsarEnumeratePrivileges.
type EnumPrivilegesReply struct {
	Resume     uint32
	Privileges []Privilege
	Status     Status // StatusNoMoreEntries behind the last
}

// Encode writes the results.
func (r *EnumPrivilegesReply) Encode(e *Encoder) {
	e.U32(r.Resume)
	e.U32(uint32(len(r.Privileges)))
	e.Pointer(len(r.Privileges) > 0)
	if len(r.Privileges) > 0 {
		e.U32(uint32(len(r.Privileges)))
	}
	for _, p := range r.Privileges {
		e.unicodeHeader(p.Name)
		e.luid(p.LUID)
	}
	for _, p := range r.Privileges {
		e.unicode(p.Name)
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *EnumPrivilegesReply) Decode(d *Decoder) error {
	*r = EnumPrivilegesReply{Resume: d.U32()}
	if n := d.U32(); d.Pointer() {
		m := d.Count(16)
		if d.Check(uint32(m) == n); d.err != nil {
			return d.err
		}
		heads := make([]unicodeHeader, m)
		r.Privileges = make([]Privilege, m)
		for i := range heads {
			heads[i] = d.unicodeHeader()
			r.Privileges[i].LUID = d.luid()
		}
		for i := range heads {
			r.Privileges[i].Name = d.unicode(heads[i])
		}
	} else {
		d.Check(n == 0)
	}
	r.Status = Status(d.U32())
	return d.Done()
}

// EnumAccountsReply are the results of LsarEnumerateAccounts and, with Right, of
// LsarEnumerateAccountsWithUserRight, which has no resume position.
type EnumAccountsReply struct {
	Right  bool
	Resume uint32
	SIDs   []fscc.SID
	Status Status
}

// Encode writes the results.
func (r *EnumAccountsReply) Encode(e *Encoder) {
	if !r.Right {
		e.U32(r.Resume)
	}
	putSIDs(e, r.SIDs)
	e.U32(uint32(r.Status))
}

// Decode reads the results; Right says of which operation.
func (r *EnumAccountsReply) Decode(d *Decoder) error {
	*r = EnumAccountsReply{Right: r.Right}
	if !r.Right {
		r.Resume = d.U32()
	}
	r.SIDs = getSIDs(d)
	r.Status = Status(d.U32())
	return d.Done()
}

// AccountRightsRequest are the parameters of LsarEnumerateAccountRights (MS-LSAD 3.1.4.5.10).
type AccountRightsRequest struct {
	Policy Handle
	SID    fscc.SID
}

// Encode writes the parameters.
func (r *AccountRightsRequest) Encode(e *Encoder) {
	e.Handle(r.Policy)
	e.SID(r.SID)
}

// Decode reads the parameters.
func (r *AccountRightsRequest) Decode(d *Decoder) error {
	*r = AccountRightsRequest{Policy: d.Handle(), SID: d.SID()}
	return d.Done()
}

// AccountRightsReply are the results of LsarEnumerateAccountRights.
type AccountRightsReply struct {
	Rights []string // names of privileges
	Status Status
}

// Encode writes the results.
func (r *AccountRightsReply) Encode(e *Encoder) {
	e.U32(uint32(len(r.Rights)))
	e.Pointer(len(r.Rights) > 0)
	if len(r.Rights) > 0 {
		putStrings(e, r.Rights)
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *AccountRightsReply) Decode(d *Decoder) error {
	*r = AccountRightsReply{}
	n := d.U32()
	if d.Pointer() {
		r.Rights = getStrings(d)
	}
	d.Check(int(n) == len(r.Rights))
	r.Status = Status(d.U32())
	return d.Done()
}

// NameRequest are the parameters of LsarLookupPrivilegeValue (MS-LSAD 3.1.4.8.3)
// and, with Optional, of LsarEnumerateAccountsWithUserRight (3.1.4.5.9), to which
// no name means every account.
type NameRequest struct {
	Optional bool
	Policy   Handle
	Name     string
}

// Encode writes the parameters.
func (r *NameRequest) Encode(e *Encoder) {
	e.Handle(r.Policy)
	if r.Optional {
		if e.Pointer(r.Name != ""); r.Name == "" {
			return
		}
	}
	e.UnicodeString(r.Name)
}

// Decode reads the parameters; Optional says of which operation.
func (r *NameRequest) Decode(d *Decoder) error {
	*r = NameRequest{Optional: r.Optional, Policy: d.Handle()}
	if !r.Optional || d.Pointer() {
		r.Name = d.UnicodeString()
	}
	return d.Done()
}

// PrivilegeValueReply are the results of LsarLookupPrivilegeValue.
type PrivilegeValueReply struct {
	LUID   LUID
	Status Status
}

// Encode writes the results.
func (r *PrivilegeValueReply) Encode(e *Encoder) {
	e.luid(r.LUID)
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *PrivilegeValueReply) Decode(d *Decoder) error {
	*r = PrivilegeValueReply{LUID: d.luid(), Status: Status(d.U32())}
	return d.Done()
}

// PrivilegeNameRequest are the parameters of LsarLookupPrivilegeName (MS-LSAD 3.1.4.8.4).
type PrivilegeNameRequest struct {
	Policy Handle
	LUID   LUID
}

// Encode writes the parameters.
func (r *PrivilegeNameRequest) Encode(e *Encoder) {
	e.Handle(r.Policy)
	e.luid(r.LUID)
}

// Decode reads the parameters.
func (r *PrivilegeNameRequest) Decode(d *Decoder) error {
	*r = PrivilegeNameRequest{Policy: d.Handle(), LUID: d.luid()}
	return d.Done()
}

// PrivilegeNameReply are the results of LsarLookupPrivilegeName.
type PrivilegeNameReply struct {
	Name   string // "": none
	Status Status
}

// Encode writes the results.
func (r *PrivilegeNameReply) Encode(e *Encoder) {
	if e.Pointer(r.Name != ""); r.Name != "" {
		e.UnicodeString(r.Name)
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *PrivilegeNameReply) Decode(d *Decoder) error {
	*r = PrivilegeNameReply{}
	if d.Pointer() {
		r.Name = d.UnicodeString()
	}
	r.Status = Status(d.U32())
	return d.Done()
}
