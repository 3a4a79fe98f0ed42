package fscc

import "slices"

// Privileges are those of MS-DTYP 2.5.3.2 and MS-FSA 2.1.1 that matter to files.
type Privileges uint32

const (
	SeSecurityPrivilege      Privileges = 1 << iota // ACCESS_SYSTEM_SECURITY
	SeTakeOwnershipPrivilege                        // WRITE_OWNER whatever the DACL says
	SeBackupPrivilege                               // read rights, where the open asks for backup intent
	SeRestorePrivilege                              // write rights, where the open asks for backup intent; any owner
	SeChangeNotifyPrivilege                         // traverse folders without FILE_TRAVERSE
	SeManageVolumePrivilege                         // set the valid data length
)

// Token is who asks (MS-DTYP 2.5.2). The zero Token is nobody: it matches no SID.
type Token struct {
	User       SID
	Groups     []SID // SIDEveryone, SIDAuthenticatedUsers and so on included by whoever makes the token
	Group      SID   // the primary group: of new objects; zero: the user's SID
	Privileges Privileges
}

// Has reports whether sid is the user or one of the groups; never for the zero SID.
func (t *Token) Has(sid SID) bool {
	return !sid.IsZero() && (t.User == sid || slices.Contains(t.Groups, sid))
}

func (t *Token) primaryGroup() SID {
	if t.Group.IsZero() {
		return t.User
	}
	return t.Group
}
