package accounts

import (
	"fmt"
	"slices"
	"strings"

	"lunless/smbstore/fscc"
)

// NameUse is what kind of thing a SID names: SID_NAME_USE (MS-LSAT 2.2.13).
type NameUse uint16

const (
	UseUser           NameUse = 1
	UseGroup          NameUse = 2
	UseDomain         NameUse = 3
	UseAlias          NameUse = 4 // a local group
	UseWellKnownGroup NameUse = 5
)

// Name is a SID with its name.
type Name struct {
	SID    fscc.SID
	Domain string // "" for what the machine itself keeps: its name stands there
	Name   string
	Use    NameUse
}

const (
	domainBuiltin   = "BUILTIN"
	domainAuthority = "NT AUTHORITY"
)

// wellKnown are the SIDs whose names are the same everywhere (MS-DTYP 2.4.2.4).
// BUILTIN groups that the file has too have the same name there.
var wellKnown = []Name{
	{fscc.SIDNull, "", "NULL SID", UseWellKnownGroup},
	{fscc.SIDEveryone, "", "Everyone", UseWellKnownGroup},
	{sid(2, 0), "", "LOCAL", UseWellKnownGroup},
	{fscc.SIDCreatorOwner, "", "CREATOR OWNER", UseWellKnownGroup},
	{fscc.SIDCreatorGroup, "", "CREATOR GROUP", UseWellKnownGroup},
	{fscc.SIDOwnerRights, "", "OWNER RIGHTS", UseWellKnownGroup},
	{sid(5, 1), domainAuthority, "DIALUP", UseWellKnownGroup},
	{fscc.SIDNetwork, domainAuthority, "NETWORK", UseWellKnownGroup},
	{sid(5, 3), domainAuthority, "BATCH", UseWellKnownGroup},
	{sid(5, 4), domainAuthority, "INTERACTIVE", UseWellKnownGroup},
	{sid(5, 6), domainAuthority, "SERVICE", UseWellKnownGroup},
	{fscc.SIDAnonymous, domainAuthority, "ANONYMOUS LOGON", UseWellKnownGroup},
	{fscc.SIDPrincipalSelf, domainAuthority, "SELF", UseWellKnownGroup},
	{fscc.SIDAuthenticatedUsers, domainAuthority, "Authenticated Users", UseWellKnownGroup},
	{sid(5, 12), domainAuthority, "RESTRICTED", UseWellKnownGroup},
	{sid(5, 15), domainAuthority, "This Organization", UseWellKnownGroup},
	{fscc.SIDLocalSystem, domainAuthority, "SYSTEM", UseWellKnownGroup},
	{sid(5, 19), domainAuthority, "LOCAL SERVICE", UseWellKnownGroup},
	{sid(5, 20), domainAuthority, "NETWORK SERVICE", UseWellKnownGroup},
	{fscc.SIDNTLMAuthentication, domainAuthority, "NTLM Authentication", UseWellKnownGroup},
	{sid(5, 32), "", domainBuiltin, UseDomain},
	{fscc.SIDAdministrators, domainBuiltin, "Administrators", UseAlias},
	{fscc.SIDUsers, domainBuiltin, "Users", UseAlias},
	{fscc.SIDGuests, domainBuiltin, "Guests", UseAlias},
	{fscc.SIDBackupOperators, domainBuiltin, "Backup Operators", UseAlias},
	{fscc.SIDHyperVAdmins, domainBuiltin, "Hyper-V Administrators", UseAlias},
}

// sid is S-1-authority-sub, which is always well-formed.
func sid(authority uint64, sub uint32) fscc.SID {
	out, _ := fscc.MakeSID(authority, sub)
	return out
}

// wellKnownName finds a well-known name in any domain.
func wellKnownName(name string) (Name, bool) {
	name = fold(name)
	i := slices.IndexFunc(wellKnown, func(n Name) bool { return fold(n.Name) == name })
	if i < 0 {
		return Name{}, false
	}
	return wellKnown[i], true
}

// LookupSID names a SID: well-known ones, the machine's, and those of its users
// and groups. Error: ErrNoName.
func (s *Store) LookupSID(sid fscc.SID) (Name, error) {
	if i := slices.IndexFunc(wellKnown, func(n Name) bool { return n.SID == sid }); i >= 0 {
		return wellKnown[i], nil
	}
	f, err := s.current()
	if err != nil {
		return Name{}, err
	}
	for _, n := range f.names() {
		if n.SID == sid {
			return n, nil
		}
	}
	return Name{}, fmt.Errorf("accounts: %v: %w", sid, ErrNoName)
}

// names are those of the file's own users and groups.
func (f *fileJSON) names() []Name {
	out := []Name{
		{f.MachineSID, "", "", UseDomain},
		{f.sid(ridNone), "", "None", UseGroup},
	}
	for _, u := range f.Users {
		out = append(out, Name{f.sid(u.RID), "", u.Name, UseUser})
	}
	for _, g := range f.Groups {
		if g.SID.Domain() == f.MachineSID {
			out = append(out, Name{g.SID, "", g.Name, UseAlias})
		}
	}
	return out
}

// LookupName finds what a name in a domain is. Domain "" looks everywhere; one
// that is neither BUILTIN nor NT AUTHORITY must be the machine's own name, which
// the caller has compared. Error: ErrNoName.
func (s *Store) LookupName(domain, name string) (Name, error) {
	folded := fold(name)
	authority := strings.EqualFold(domain, domainBuiltin) || strings.EqualFold(domain, domainAuthority)
	if authority || domain == "" {
		for _, n := range wellKnown {
			if fold(n.Name) == folded && (domain == "" || strings.EqualFold(n.Domain, domain)) {
				return n, nil
			}
		}
	}
	f, err := s.current()
	if err != nil {
		return Name{}, err
	}
	for _, n := range f.names() {
		if !authority && n.Name != "" && fold(n.Name) == folded {
			return n, nil
		}
	}
	return Name{}, fmt.Errorf("accounts: %q: %w", name, ErrNoName)
}

// Token is who a user who logged on over the network with NTLM is to security
// descriptors: the user, the groups, and what every such log-on belongs to.
// Administrators get the privileges that Windows gives them. Errors: ErrNoUser,
// ErrDisabled.
func (s *Store) Token(user string) (fscc.Token, error) {
	f, err := s.current()
	if err != nil {
		return fscc.Token{}, err
	}
	i := f.user(user)
	switch {
	case i < 0:
		return fscc.Token{}, fmt.Errorf("accounts: user %q: %w", user, ErrNoUser)
	case f.Users[i].Disabled:
		return fscc.Token{}, fmt.Errorf("accounts: user %q: %w", user, ErrDisabled)
	}
	t := fscc.Token{
		User:  f.sid(f.Users[i].RID),
		Group: f.sid(ridNone),
	}
	t.Groups = append(t.Groups, t.Group, fscc.SIDEveryone, fscc.SIDNetwork, fscc.SIDAuthenticatedUsers, fscc.SIDNTLMAuthentication)
	for _, g := range f.Groups {
		if slices.Contains(g.Members, t.User) {
			t.Groups = append(t.Groups, g.SID)
		}
	}
	for _, holder := range PrivilegeHolders {
		if t.Has(holder.SID) {
			t.Privileges |= holder.Privileges
		}
	}
	return t, nil
}

// PrivilegeHolders are those whom privileges are assigned to, as Windows does.
var PrivilegeHolders = []struct {
	SID        fscc.SID
	Privileges fscc.Privileges
}{
	{fscc.SIDAdministrators, fscc.SeSecurityPrivilege | fscc.SeTakeOwnershipPrivilege | fscc.SeBackupPrivilege |
		fscc.SeRestorePrivilege | fscc.SeChangeNotifyPrivilege | fscc.SeManageVolumePrivilege},
	{fscc.SIDBackupOperators, fscc.SeBackupPrivilege | fscc.SeRestorePrivilege | fscc.SeChangeNotifyPrivilege},
	{fscc.SIDEveryone, fscc.SeChangeNotifyPrivilege},
}

// AnonymousToken is the token of a log-on without a user, which Everyone does not
// include (MS-DTYP 2.4.2.4).
func AnonymousToken() fscc.Token {
	return fscc.Token{User: fscc.SIDAnonymous, Groups: []fscc.SID{fscc.SIDNetwork}}
}
