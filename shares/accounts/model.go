package accounts

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"lunless/smbstore/fscc"
)

// User is a local account.
type User struct {
	SID         fscc.SID
	Name        string // as it was given; compared without regard to case
	FullName    string
	Disabled    bool
	NTHash      [16]byte // as good as the password
	PasswordSet time.Time
}

// Group is a local group.
type Group struct {
	SID     fscc.SID
	Name    string
	Members []fscc.SID
}

// The file's form. Each object keeps the fields it does not know in extra.
type (
	fileJSON struct {
		Version    int         `json:"version"`
		MachineSID fscc.SID    `json:"machine_sid"`
		NextRID    uint32      `json:"next_rid"` // never given twice
		Users      []userJSON  `json:"users"`
		Groups     []groupJSON `json:"groups"`
		extra      extraFields
	}
	userJSON struct {
		RID         uint32    `json:"rid"`
		Name        string    `json:"name"`
		FullName    string    `json:"full_name,omitempty"`
		Disabled    bool      `json:"disabled,omitempty"`
		NTHash      hash      `json:"nt_hash"`
		PasswordSet time.Time `json:"password_set"`
		extra       extraFields
	}
	groupJSON struct {
		SID     fscc.SID   `json:"sid"`
		Name    string     `json:"name"`
		Members []fscc.SID `json:"members"`
		extra   extraFields
	}
	extraFields map[string]json.RawMessage
)

const fileVersion = 1

// firstRID is the first of ordinary accounts; Windows keeps those below for its own.
const (
	firstRID = 1000
	ridNone  = 513 // the primary group of local users
)

// hash is an NT hash in hexadecimal.
type hash [16]byte

func (h hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

func (h *hash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("NT hash: want %d hexadecimal digits", 2*len(h))
	}
	copy(h[:], b)
	return nil
}

// marshalWith encodes v, a struct, with the fields of extra added.
func marshalWith(v any, extra extraFields) ([]byte, error) {
	known, err := json.Marshal(v)
	if err != nil || len(extra) == 0 {
		return known, err
	}
	more, err := json.Marshal(extra)
	if err != nil {
		return nil, err
	}
	return slices.Concat(known[:len(known)-1], []byte(","), more[1:]), nil
}

// unmarshalWith decodes into v, a pointer to a struct whose fields are named in
// known, and returns the fields that are not among them.
func unmarshalWith(b []byte, v any, known ...string) (extraFields, error) {
	if err := json.Unmarshal(b, v); err != nil {
		return nil, err
	}
	var extra extraFields
	if err := json.Unmarshal(b, &extra); err != nil {
		return nil, err
	}
	// encoding/json takes a field in any case; so must what is left over.
	maps.DeleteFunc(extra, func(name string, _ json.RawMessage) bool {
		return slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) })
	})
	return extra, nil
}

func (f fileJSON) MarshalJSON() ([]byte, error) {
	type plain fileJSON
	return marshalWith(plain(f), f.extra)
}

func (f *fileJSON) UnmarshalJSON(b []byte) (err error) {
	type plain fileJSON
	f.extra, err = unmarshalWith(b, (*plain)(f), "version", "machine_sid", "next_rid", "users", "groups")
	return err
}

func (u userJSON) MarshalJSON() ([]byte, error) {
	type plain userJSON
	return marshalWith(plain(u), u.extra)
}

func (u *userJSON) UnmarshalJSON(b []byte) (err error) {
	type plain userJSON
	u.extra, err = unmarshalWith(b, (*plain)(u), "rid", "name", "full_name", "disabled", "nt_hash", "password_set")
	return err
}

func (g groupJSON) MarshalJSON() ([]byte, error) {
	type plain groupJSON
	return marshalWith(plain(g), g.extra)
}

func (g *groupJSON) UnmarshalJSON(b []byte) (err error) {
	type plain groupJSON
	g.extra, err = unmarshalWith(b, (*plain)(g), "sid", "name", "members")
	return err
}

// newFile is what a new data folder gets.
func newFile(machine fscc.SID) *fileJSON {
	return &fileJSON{
		Version: fileVersion, MachineSID: machine, NextRID: firstRID,
		Users:  []userJSON{},
		Groups: builtinGroups(),
	}
}

// builtinGroups are those every machine has, without members.
func builtinGroups() []groupJSON {
	return []groupJSON{
		{SID: fscc.SIDAdministrators, Name: "Administrators", Members: []fscc.SID{}},
		{SID: fscc.SIDUsers, Name: "Users", Members: []fscc.SID{}},
		{SID: fscc.SIDBackupOperators, Name: "Backup Operators", Members: []fscc.SID{}},
	}
}

// addBuiltins gives a file that an older version wrote the groups it lacks.
func (f *fileJSON) addBuiltins() {
	for _, b := range builtinGroups() {
		if !slices.ContainsFunc(f.Groups, func(g groupJSON) bool { return g.SID == b.SID }) && f.group(b.Name) < 0 && f.user(b.Name) < 0 {
			b.extra = extraFields{}
			f.Groups = append(f.Groups, b)
		}
	}
}

// decodeFile reads and checks the file's content: ErrDamaged, ErrVersion.
func decodeFile(b []byte) (*fileJSON, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if version.Version > fileVersion {
		return nil, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, version.Version, fileVersion)
	}
	f := new(fileJSON)
	if err := json.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	f.addBuiltins()
	return f, nil
}

// check demands what the rest of the package relies on.
func (f *fileJSON) check() error {
	if sub := f.MachineSID.SubAuthorities(); f.Version < 1 || f.MachineSID.Authority() != 5 || len(sub) != 4 || sub[0] != 21 {
		return fmt.Errorf("version %d, machine SID %q", f.Version, f.MachineSID)
	}
	rids, names := map[uint32]bool{}, map[string]bool{}
	for _, u := range f.Users {
		if err := checkName(u.Name); err != nil {
			return fmt.Errorf("user %q: %w", u.Name, err)
		}
		if u.RID < firstRID || u.RID >= f.NextRID || rids[u.RID] || names[fold(u.Name)] {
			return fmt.Errorf("user %q: name or RID %d is not its own", u.Name, u.RID)
		}
		rids[u.RID], names[fold(u.Name)] = true, true
	}
	for _, g := range f.Groups {
		if g.SID.IsZero() || g.Name == "" || names[fold(g.Name)] {
			return fmt.Errorf("group %q: SID %q", g.Name, g.SID)
		}
		names[fold(g.Name)] = true
	}
	return nil
}

// user finds a user by name; -1 if there is none.
func (f *fileJSON) user(name string) int {
	name = fold(name)
	return slices.IndexFunc(f.Users, func(u userJSON) bool { return fold(u.Name) == name })
}

// group finds a group by name; -1 if there is none.
func (f *fileJSON) group(name string) int {
	name = fold(name)
	return slices.IndexFunc(f.Groups, func(g groupJSON) bool { return fold(g.Name) == name })
}

// sid is the SID of a user's RID. A machine SID has room for it.
func (f *fileJSON) sid(rid uint32) fscc.SID {
	sid, _ := f.MachineSID.Child(rid)
	return sid
}

func (f *fileJSON) export(u *userJSON) User {
	return User{
		SID: f.sid(u.RID), Name: u.Name, FullName: u.FullName, Disabled: u.Disabled,
		NTHash: u.NTHash, PasswordSet: u.PasswordSet,
	}
}

// fold is the form names are compared in.
func fold(name string) string { return fscc.UpcaseName(name) }

func checkName(name string) error {
	if name == "" || !utf8.ValidString(name) || utf8.RuneCountInString(name) > 64 ||
		strings.ContainsAny(name, "\"/\\[]:;|=,+*?<>@") || strings.ContainsFunc(name, unicode.IsControl) ||
		strings.Trim(name, ". ") == "" || strings.TrimSpace(name) != name {
		return ErrBadName
	}
	return nil
}

// checkPassword takes up to 256 characters, as Windows does.
func checkPassword(password string) error {
	if password == "" || !utf8.ValidString(password) || utf8.RuneCountInString(password) > 256 {
		return ErrBadPassword
	}
	return nil
}
