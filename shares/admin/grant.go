package admin

import (
	"errors"
	"fmt"
	"strings"

	"lunless/shares/accounts"
	"lunless/smbstore/fscc"
)

// Access is what a share lets somebody do at most, by the names Windows has for
// it. What a file's own security descriptor does not grant stays refused.
type Access string

const (
	AccessRead   Access = "read"   // look, and run
	AccessChange Access = "change" // and write, make, delete
	AccessFull   Access = "full"   // and change security descriptors and owners
)

// mask is the rights of MS-SMB2 2.2.13.1 that stand for it.
func (a Access) mask() fscc.AccessMask {
	const read = fscc.FILE_GENERIC_READ | fscc.FILE_GENERIC_EXECUTE
	switch a {
	case AccessRead:
		return read
	case AccessChange:
		return read | fscc.FILE_GENERIC_WRITE | fscc.DELETE
	case AccessFull:
		return fscc.FILE_ALL_ACCESS
	}
	return 0
}

// Grant lets an account use a share. As text it is WHO:ACCESS.
type Grant struct {
	Who    string // a user or group, DOMAIN\NAME, or a SID
	Access Access
}

// ErrBadGrant is the error of a grant that cannot be read or names nobody.
var ErrBadGrant = errors.New("not a valid grant")

// ParseGrant reads WHO:read, WHO:change or WHO:full.
func ParseGrant(text string) (g Grant, err error) {
	return g, g.UnmarshalText([]byte(text))
}

// UnmarshalText is ParseGrant, for files.
func (g *Grant) UnmarshalText(text []byte) error {
	i := strings.LastIndexByte(string(text), ':')
	if i <= 0 {
		return fmt.Errorf("%w: %q: want WHO:read, WHO:change or WHO:full", ErrBadGrant, text)
	}
	*g = Grant{Who: string(text[:i]), Access: Access(text[i+1:])}
	return g.check()
}

// MarshalText writes WHO:ACCESS.
func (g Grant) MarshalText() ([]byte, error) { return []byte(g.Who + ":" + string(g.Access)), nil }

func (g Grant) check() error {
	if g.Who == "" || g.Access.mask() == 0 {
		return fmt.Errorf("%w: %q may do %q: there are read, change and full", ErrBadGrant, g.Who, g.Access)
	}
	return nil
}

// sid finds whom the grant is for.
func (g Grant) sid(store *accounts.Store) (fscc.SID, error) {
	if sid, err := fscc.ParseSID(g.Who); err == nil {
		return sid, nil
	}
	domain, name, ok := strings.Cut(g.Who, `\`)
	if !ok {
		domain, name = "", g.Who
	}
	n, err := store.LookupName(domain, name)
	switch {
	case errors.Is(err, accounts.ErrNoName):
		return fscc.SID{}, fmt.Errorf("%w: there is no user or group %s (`lunless user list`; groups are Administrators, Users, Everyone, Authenticated Users)", ErrBadGrant, g.Who)
	case err != nil:
		return fscc.SID{}, err
	}
	return n.SID, nil
}

// Resolved is the grant with its SID in place of the name: it then means the same
// account for good, and none that is made under the same name later.
func (g Grant) Resolved(store *accounts.Store) (Grant, error) {
	sid, err := g.sid(store)
	return Grant{Who: sid.String(), Access: g.Access}, err
}

// Named is the grant as people write it, with the SID where it has no name.
func (g Grant) Named(store *accounts.Store) string {
	who := g.Who
	if sid, err := fscc.ParseSID(who); err == nil {
		if n, err := store.LookupSID(sid); err == nil && n.Name != "" {
			who = n.Name
		}
	}
	return who + ":" + string(g.Access)
}

// Allow adds a grant, in place of one the same account has.
func (s *Share) Allow(g Grant) {
	s.Disallow(g.Who)
	s.Grants = append(s.Grants, g)
}

// Disallow takes an account's grant away; false if it has none.
func (s *Share) Disallow(who string) bool {
	kept := s.Grants[:0:0]
	for _, g := range s.Grants {
		if !strings.EqualFold(g.Who, who) {
			kept = append(kept, g)
		}
	}
	found := len(kept) < len(s.Grants)
	s.Grants = kept
	return found
}

// security is the descriptor of the share (MS-SMB2 3.3.1.6, ConnectSecurity): nil,
// which lets every account do everything, where nothing has been granted.
func (s *Share) security(store *accounts.Store) (*fscc.SecurityDescriptor, error) {
	if len(s.Grants) == 0 {
		return nil, nil
	}
	sd := &fscc.SecurityDescriptor{Control: fscc.SE_DACL_PRESENT, DACL: &fscc.ACL{}}
	for _, g := range s.Grants {
		sid, err := g.sid(store)
		if err != nil {
			return nil, fmt.Errorf("share %s: %w", s.Name, err)
		}
		sd.DACL.ACEs = append(sd.DACL.ACEs, fscc.Allow(sid, g.Access.mask(), 0))
	}
	return sd, nil
}
