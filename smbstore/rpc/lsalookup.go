package rpc

import "lunless/smbstore/fscc"

// Bounds of a look-up (MS-LSAT 2.2.18, 3.1.4.5).
const (
	MaxLookupSIDs  = 20480
	MaxLookupNames = 1000
)

// Levels of a look-up (MS-LSAT 2.2.16).
const (
	LookupWksta          = 1 // everywhere
	LookupXForestResolve = 7 // the last
)

const (
	// NoDomain is the index where there is no referenced domain.
	NoDomain = -1
	// SIDUseUnknown is SidTypeUnknown (MS-LSAT 2.2.13).
	SIDUseUnknown = 8
	// referencedDomainsAtMost is what Windows states as MaxEntries.
	referencedDomainsAtMost = 32
)

// lookupForm tells apart the forms of a look-up by its operation.
type lookupForm struct {
	handle  bool // begins with a policy handle
	flags   bool // results have flags, parameters end in options and revision
	fullSID bool // results hold SIDs, not relative IDs
}

func lookupFormOf(op uint16) lookupForm {
	switch op {
	case OpLsarLookupSids, OpLsarLookupNames:
		return lookupForm{handle: true}
	case OpLsarLookupSids2, OpLsarLookupNames2:
		return lookupForm{handle: true, flags: true}
	case OpLsarLookupNames3:
		return lookupForm{handle: true, flags: true, fullSID: true}
	case OpLsarLookupNames4:
		return lookupForm{flags: true, fullSID: true}
	}
	return lookupForm{flags: true} // LsarLookupSids3
}

// lookupTail are the parameters behind what is looked up.
type lookupTail struct {
	Level    uint16 // LookupWksta and so on
	Options  uint32
	Revision uint32
}

func (t *lookupTail) put(e *Encoder, f lookupForm) {
	e.U32(0) // no results yet
	e.Pointer(false)
	e.U16(t.Level)
	e.U32(0) // MappedCount
	if f.flags {
		e.U32(t.Options)
		e.U32(t.Revision)
	}
}

// get reads the tail. The list of results, which counts on return alone, must be empty.
func (t *lookupTail) get(d *Decoder, f lookupForm) {
	n := d.U32()
	d.Check(n == 0 && !d.Pointer())
	t.Level = d.U16()
	d.U32() // MappedCount
	if f.flags {
		t.Options, t.Revision = d.U32(), d.U32()
	}
}

// LookupSidsRequest are the parameters of LsarLookupSids, LsarLookupSids2 and
// LsarLookupSids3 (MS-LSAT 3.1.4.9 to 3.1.4.11); Op says of which.
type LookupSidsRequest struct {
	Op     uint16
	Policy Handle
	SIDs   []fscc.SID
	lookupTail
}

// Encode writes the parameters.
func (r *LookupSidsRequest) Encode(e *Encoder) {
	f := lookupFormOf(r.Op)
	if f.handle {
		e.Handle(r.Policy)
	}
	putSIDs(e, r.SIDs)
	r.lookupTail.put(e, f)
}

// Decode reads the parameters of operation Op.
func (r *LookupSidsRequest) Decode(d *Decoder) error {
	*r = LookupSidsRequest{Op: r.Op}
	f := lookupFormOf(r.Op)
	if f.handle {
		r.Policy = d.Handle()
	}
	r.SIDs = getSIDs(d)
	r.lookupTail.get(d, f)
	return d.Done()
}

// putSIDs writes a counted array of pointers to SIDs: LSAPR_SID_ENUM_BUFFER (MS-LSAT
// 2.2.18), LSAPR_ACCOUNT_ENUM_BUFFER (MS-LSAD 2.2.5.2).
func putSIDs(e *Encoder, list []fscc.SID) {
	e.U32(uint32(len(list)))
	e.Pointer(len(list) > 0)
	if len(list) == 0 {
		return
	}
	e.U32(uint32(len(list)))
	for range list {
		e.Pointer(true)
	}
	for _, s := range list {
		e.SID(s)
	}
}

func getSIDs(d *Decoder) []fscc.SID {
	n := d.U32()
	if !d.Pointer() {
		d.Check(n == 0)
		return nil
	}
	m := d.Count(4)
	if d.Check(uint32(m) == n && m <= MaxLookupSIDs); d.err != nil || m == 0 {
		return nil
	}
	for range m {
		d.Check(d.Pointer())
	}
	if d.err != nil {
		return nil
	}
	list := make([]fscc.SID, 0, min(m, 64)) // what is there of them decides how many
	for range m {
		if d.err != nil {
			return nil
		}
		list = append(list, d.SID())
	}
	return list
}

// LookupNamesRequest are the parameters of LsarLookupNames, LsarLookupNames2,
// LsarLookupNames3 and LsarLookupNames4 (MS-LSAT 3.1.4.5 to 3.1.4.8); Op says of which.
type LookupNamesRequest struct {
	Op     uint16
	Policy Handle
	Names  []string // NAME, DOMAIN\NAME or NAME@DOMAIN
	lookupTail
}

// Encode writes the parameters.
func (r *LookupNamesRequest) Encode(e *Encoder) {
	f := lookupFormOf(r.Op)
	if f.handle {
		e.Handle(r.Policy)
	}
	e.U32(uint32(len(r.Names)))
	putStrings(e, r.Names)
	r.lookupTail.put(e, f)
}

// Decode reads the parameters of operation Op.
func (r *LookupNamesRequest) Decode(d *Decoder) error {
	*r = LookupNamesRequest{Op: r.Op}
	f := lookupFormOf(r.Op)
	if f.handle {
		r.Policy = d.Handle()
	}
	n := d.U32()
	d.Check(n <= MaxLookupNames)
	r.Names = getStrings(d)
	d.Check(int(n) == len(r.Names))
	r.lookupTail.get(d, f)
	return d.Done()
}

// putStrings writes a conformant array of RPC_UNICODE_STRING.
func putStrings(e *Encoder, list []string) {
	e.U32(uint32(len(list)))
	for _, s := range list {
		e.unicodeHeader(s)
	}
	for _, s := range list {
		e.unicode(s)
	}
}

func getStrings(d *Decoder) []string {
	n := d.Count(8)
	if d.err != nil || n == 0 {
		return nil
	}
	headers := make([]unicodeHeader, n)
	for i := range headers {
		headers[i] = d.unicodeHeader()
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.unicode(headers[i])
	}
	return list
}

// ReferencedDomain is a domain that results belong to (MS-LSAT 2.2.11, LSAPR_TRUST_INFORMATION).
type ReferencedDomain struct {
	Name string
	SID  fscc.SID // zero: none
}

// putDomains writes a pointer to the list (MS-LSAT 2.2.12): a null pointer for a nil one.
func putDomains(e *Encoder, list []ReferencedDomain) {
	e.Pointer(list != nil)
	if list == nil {
		return
	}
	e.U32(uint32(len(list)))
	e.Pointer(len(list) > 0)
	e.U32(referencedDomainsAtMost)
	if len(list) == 0 {
		return
	}
	e.U32(uint32(len(list)))
	for i := range list {
		e.unicodeHeader(list[i].Name)
		e.Pointer(!list[i].SID.IsZero())
	}
	for i := range list {
		e.unicode(list[i].Name)
		if !list[i].SID.IsZero() {
			e.SID(list[i].SID)
		}
	}
}

func getDomains(d *Decoder) []ReferencedDomain {
	if !d.Pointer() {
		return nil
	}
	n, present := d.U32(), d.Pointer()
	d.U32()
	list := []ReferencedDomain{}
	if !present {
		d.Check(n == 0)
		return list
	}
	m := d.Count(12)
	if d.Check(uint32(m) == n); d.err != nil {
		return nil
	}
	type pointers struct {
		name unicodeHeader
		sid  bool
	}
	heads := make([]pointers, m)
	for i := range heads {
		heads[i] = pointers{d.unicodeHeader(), d.Pointer()}
	}
	for _, h := range heads {
		r := ReferencedDomain{Name: d.unicode(h.name)}
		if h.sid {
			r.SID = d.SID()
		}
		list = append(list, r)
	}
	return list
}

// TranslatedName is what a SID stands for (MS-LSAT 2.2.19, 2.2.21).
type TranslatedName struct {
	Use    uint16 // SID_NAME_USE (2.2.13)
	Name   string
	Domain int32 // index of the referenced domain, or NoDomain
	Flags  uint32
}

// LookupSidsReply are the results of LsarLookupSids, LsarLookupSids2 and LsarLookupSids3.
type LookupSidsReply struct {
	Op      uint16
	Domains []ReferencedDomain // nil with an error
	Names   []TranslatedName
	Mapped  uint32
	Status  Status // StatusOK, StatusSomeNotMapped, StatusNoneMapped, or an error without names
}

// Encode writes the results.
func (r *LookupSidsReply) Encode(e *Encoder) {
	f := lookupFormOf(r.Op)
	putDomains(e, r.Domains)
	e.U32(uint32(len(r.Names)))
	e.Pointer(len(r.Names) > 0)
	if len(r.Names) > 0 {
		e.U32(uint32(len(r.Names)))
	}
	for i := range r.Names {
		n := &r.Names[i]
		e.U16(n.Use)
		e.unicodeHeader(n.Name)
		e.U32(uint32(n.Domain))
		if f.flags {
			e.U32(n.Flags)
		}
	}
	for i := range r.Names {
		e.unicode(r.Names[i].Name)
	}
	e.U32(r.Mapped)
	e.U32(uint32(r.Status))
}

// Decode reads the results of operation Op.
func (r *LookupSidsReply) Decode(d *Decoder) error {
	*r = LookupSidsReply{Op: r.Op, Domains: getDomains(d)}
	f := lookupFormOf(r.Op)
	if n := d.U32(); d.Pointer() {
		m := d.Count(16)
		if d.Check(uint32(m) == n); d.err != nil {
			return d.err
		}
		heads := make([]unicodeHeader, m)
		r.Names = make([]TranslatedName, m)
		for i := range r.Names {
			t := &r.Names[i]
			d.Align(4)
			t.Use = d.U16()
			heads[i] = d.unicodeHeader()
			t.Domain = int32(d.U32())
			if f.flags {
				t.Flags = d.U32()
			}
		}
		for i := range r.Names {
			r.Names[i].Name = d.unicode(heads[i])
		}
	} else {
		d.Check(n == 0)
	}
	r.Mapped = d.U32()
	r.Status = Status(d.U32())
	return d.Done()
}

// TranslatedSID is what a name stands for (MS-LSAT 2.2.15, 2.2.23, 2.2.25).
type TranslatedSID struct {
	Use    uint16
	SID    fscc.SID // LsarLookupNames3, LsarLookupNames4; zero: none
	RID    uint32   // LsarLookupNames, LsarLookupNames2: relative to the domain
	Domain int32    // index of the referenced domain, or NoDomain
	Flags  uint32
}

// LookupNamesReply are the results of LsarLookupNames and its successors.
type LookupNamesReply struct {
	Op      uint16
	Domains []ReferencedDomain // nil with an error
	SIDs    []TranslatedSID
	Mapped  uint32
	Status  Status
}

// Encode writes the results.
func (r *LookupNamesReply) Encode(e *Encoder) {
	f := lookupFormOf(r.Op)
	putDomains(e, r.Domains)
	e.U32(uint32(len(r.SIDs)))
	e.Pointer(len(r.SIDs) > 0)
	if len(r.SIDs) > 0 {
		e.U32(uint32(len(r.SIDs)))
	}
	for i := range r.SIDs {
		s := &r.SIDs[i]
		e.Align(4)
		e.U16(s.Use)
		if f.fullSID {
			e.Pointer(!s.SID.IsZero())
		} else {
			e.U32(s.RID)
		}
		e.U32(uint32(s.Domain))
		if f.flags {
			e.U32(s.Flags)
		}
	}
	for i := range r.SIDs {
		if s := r.SIDs[i].SID; f.fullSID && !s.IsZero() {
			e.SID(s)
		}
	}
	e.U32(r.Mapped)
	e.U32(uint32(r.Status))
}

// Decode reads the results of operation Op.
func (r *LookupNamesReply) Decode(d *Decoder) error {
	*r = LookupNamesReply{Op: r.Op, Domains: getDomains(d)}
	f := lookupFormOf(r.Op)
	if n := d.U32(); d.Pointer() {
		m := d.Count(12)
		if d.Check(uint32(m) == n); d.err != nil {
			return d.err
		}
		present := make([]bool, m)
		r.SIDs = make([]TranslatedSID, m)
		for i := range r.SIDs {
			t := &r.SIDs[i]
			d.Align(4)
			t.Use = d.U16()
			if f.fullSID {
				present[i] = d.Pointer()
			} else {
				t.RID = d.U32()
			}
			t.Domain = int32(d.U32())
			if f.flags {
				t.Flags = d.U32()
			}
		}
		for i := range r.SIDs {
			if present[i] {
				r.SIDs[i].SID = d.SID()
			}
		}
	} else {
		d.Check(n == 0)
	}
	r.Mapped = d.U32()
	r.Status = Status(d.U32())
	return d.Done()
}
