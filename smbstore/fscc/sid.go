package fscc

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// MaxSubAuthorities bounds a SID (MS-DTYP 2.4.2).
const MaxSubAuthorities = 15

// SID is a security identifier (MS-DTYP 2.4.2): S-1-authority-sub-sub... It is
// comparable; the zero SID has no authority and no sub-authorities and stands for none.
type SID struct {
	authority [6]byte // big-endian
	n         uint8
	sub       [MaxSubAuthorities]uint32
}

// MakeSID returns S-1-authority-sub... . ErrInvalid for an authority above 48
// bits or more than 15 sub-authorities.
func MakeSID(authority uint64, sub ...uint32) (SID, error) {
	if authority >= 1<<48 || len(sub) > MaxSubAuthorities {
		return SID{}, fmt.Errorf("fscc: SID of authority %d with %d sub-authorities: %w", authority, len(sub), ErrInvalid)
	}
	return makeSID(authority, sub...), nil
}

func makeSID(authority uint64, sub ...uint32) (s SID) {
	var be [8]byte
	binary.BigEndian.PutUint64(be[:], authority)
	copy(s.authority[:], be[2:])
	s.n = uint8(copy(s.sub[:], sub))
	return s
}

// IsZero reports whether s is no SID at all.
func (s SID) IsZero() bool { return s == SID{} }

// Equal reports whether two SIDs are the same; == does too.
func (s SID) Equal(o SID) bool { return s == o }

// Authority is the identifier authority, 48 bits.
func (s SID) Authority() uint64 {
	var be [8]byte
	copy(be[2:], s.authority[:])
	return binary.BigEndian.Uint64(be[:])
}

// SubAuthorities returns a copy of the sub-authorities.
func (s SID) SubAuthorities() []uint32 { return append([]uint32(nil), s.sub[:s.n]...) }

// RID is the last sub-authority, 0 if there is none.
func (s SID) RID() uint32 {
	if s.n == 0 {
		return 0
	}
	return s.sub[s.n-1]
}

// Domain is s without its last sub-authority, the zero SID if it has none.
func (s SID) Domain() SID {
	if s.n == 0 {
		return SID{}
	}
	s.n--
	s.sub[s.n] = 0
	return s
}

// Child is s with one more sub-authority; ErrInvalid if it has 15 already.
func (s SID) Child(rid uint32) (SID, error) {
	if s.n >= MaxSubAuthorities {
		return SID{}, fmt.Errorf("fscc: sub-authority %d behind %v: %w", rid, s, ErrInvalid)
	}
	s.sub[s.n] = rid
	s.n++
	return s, nil
}

// String is the form of MS-DTYP 2.4.2.1, with authorities of 2^32 and above in
// hexadecimal; "" for the zero SID.
func (s SID) String() string {
	if s.IsZero() {
		return ""
	}
	b := []byte("S-1-")
	if a := s.Authority(); a < 1<<32 {
		b = strconv.AppendUint(b, a, 10)
	} else {
		b = fmt.Appendf(b, "0x%012X", a)
	}
	for _, v := range s.sub[:s.n] {
		b = append(b, '-')
		b = strconv.AppendUint(b, uint64(v), 10)
	}
	return string(b)
}

// ParseSID reads the form of MS-DTYP 2.4.2.1. ErrInvalid for anything else.
func ParseSID(text string) (SID, error) {
	fail := func() (SID, error) {
		return SID{}, fmt.Errorf("fscc: %q is no SID (S-1-5-21-...): %w", text, ErrInvalid)
	}
	parts := strings.Split(text, "-")
	if len(parts) < 3 || len(parts) > 3+MaxSubAuthorities || !strings.EqualFold(parts[0], "S") || parts[1] != "1" {
		return fail()
	}
	authority, err := parseAuthority(parts[2])
	if err != nil {
		return fail()
	}
	s := makeSID(authority)
	for _, p := range parts[3:] {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return fail()
		}
		s.sub[s.n] = uint32(v)
		s.n++
	}
	return s, nil
}

// parseAuthority takes decimal numbers below 2^32 and 0x with twelve digits (MS-DTYP 2.4.2.1).
func parseAuthority(text string) (uint64, error) {
	if hex, ok := strings.CutPrefix(strings.ToLower(text), "0x"); ok {
		if len(hex) != 12 {
			return 0, ErrInvalid
		}
		return strconv.ParseUint(hex, 16, 48)
	}
	return strconv.ParseUint(text, 10, 32)
}

// MarshalText and UnmarshalText let a SID stand in configuration.
func (s SID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts what String returns; "" is the zero SID.
func (s *SID) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*s = SID{}
		return nil
	}
	*s, err = ParseSID(string(text))
	return err
}

const sidFixed = 8

// Size is the bytes of the packet form (MS-DTYP 2.4.2.2).
func (s SID) Size() int { return sidFixed + 4*int(s.n) }

// Encode writes the packet form.
func (s SID) Encode(dst []byte) { s.put(&writer{b: dst}) }

func (s SID) put(w *writer) {
	w.u8(1)
	w.u8(s.n)
	w.bytes(s.authority[:])
	for _, v := range s.sub[:s.n] {
		w.u32(v)
	}
}

// Decode reads the packet form at the start of b. It refuses revisions other
// than 1 and more than 15 sub-authorities.
func (s *SID) Decode(b []byte) error {
	r := reader{b: b}
	s.get(&r)
	return r.done("SID")
}

func (s *SID) get(r *reader) {
	*s = SID{}
	r.check(r.u8() == 1)
	n := r.u8()
	r.check(n <= MaxSubAuthorities)
	copy(s.authority[:], r.take(6))
	if r.err != nil {
		return
	}
	s.n = n
	for i := range s.sub[:n] {
		s.sub[i] = r.u32()
	}
}

// Well-known SIDs (MS-DTYP 2.4.2.4).
var (
	SIDNull               = makeSID(0, 0)
	SIDEveryone           = makeSID(1, 0)
	SIDCreatorOwner       = makeSID(3, 0)
	SIDCreatorGroup       = makeSID(3, 1)
	SIDOwnerRights        = makeSID(3, 4)
	SIDNetwork            = makeSID(5, 2)
	SIDAnonymous          = makeSID(5, 7)
	SIDPrincipalSelf      = makeSID(5, 10)
	SIDAuthenticatedUsers = makeSID(5, 11)
	SIDLocalSystem        = makeSID(5, 18)
	SIDNTLMAuthentication = makeSID(5, 64, 10)
	SIDAdministrators     = makeSID(5, 32, 544)
	SIDUsers              = makeSID(5, 32, 545)
	SIDGuests             = makeSID(5, 32, 546)
	SIDBackupOperators    = makeSID(5, 32, 551)
	SIDHyperVAdmins       = makeSID(5, 32, 578)
)
