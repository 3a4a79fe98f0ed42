package services

import (
	"strings"

	"lunless/shares/accounts"
	"lunless/smbstore/fscc"
	"lunless/smbstore/rpc"
)

// privileges are those this server knows, with the numbers Windows gives them
// (MS-LSAD 3.1.1.2.1).
var privileges = []struct {
	rpc.Privilege
	bit fscc.Privileges
}{
	{rpc.Privilege{Name: "SeSecurityPrivilege", LUID: 8}, fscc.SeSecurityPrivilege},
	{rpc.Privilege{Name: "SeTakeOwnershipPrivilege", LUID: 9}, fscc.SeTakeOwnershipPrivilege},
	{rpc.Privilege{Name: "SeBackupPrivilege", LUID: 17}, fscc.SeBackupPrivilege},
	{rpc.Privilege{Name: "SeRestorePrivilege", LUID: 18}, fscc.SeRestorePrivilege},
	{rpc.Privilege{Name: "SeChangeNotifyPrivilege", LUID: 23}, fscc.SeChangeNotifyPrivilege},
	{rpc.Privilege{Name: "SeManageVolumePrivilege", LUID: 28}, fscc.SeManageVolumePrivilege},
}

// lsaRights performs the operations of MS-LSAD about privileges and who holds them.
func (c *calls) lsaRights(opnum uint16, in *rpc.Decoder, out *rpc.Encoder) error {
	switch opnum {
	case rpc.OpLsarEnumeratePrivileges:
		return c.enumPrivileges(in, out)
	case rpc.OpLsarEnumerateAccounts:
		return c.enumAccounts(in, out)
	case rpc.OpLsarEnumerateAccountRights:
		return c.accountRights(in, out)
	case rpc.OpLsarEnumerateAccountsWithUserRight:
		return c.accountsWithRight(in, out)
	case rpc.OpLsarLookupPrivilegeValue:
		return c.privilegeValue(in, out)
	case rpc.OpLsarLookupPrivilegeName:
		return c.privilegeName(in, out)
	}
	return rpc.FaultOperationRange
}

// enumPrivileges is LsarEnumeratePrivileges (MS-LSAD 3.1.4.8.1). The few there
// are come at once, whatever the caller prefers.
func (c *calls) enumPrivileges(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.EnumRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	status, err := c.mayUsePolicy(q.Policy, policyViewLocal)
	if err != nil {
		return err
	}
	a := rpc.EnumPrivilegesReply{Resume: q.Resume, Status: status}
	if status == rpc.StatusOK {
		a.Status = rpc.StatusNoMoreEntries
		for i := int(min(uint64(q.Resume), uint64(len(privileges)))); i < len(privileges); i++ {
			a.Privileges = append(a.Privileges, privileges[i].Privilege)
			a.Status = rpc.StatusOK
		}
		a.Resume = uint32(len(privileges))
	}
	a.Encode(out)
	return nil
}

// enumAccounts is LsarEnumerateAccounts (MS-LSAD 3.1.4.5.2): who holds privileges.
func (c *calls) enumAccounts(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.EnumRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	status, err := c.mayUsePolicy(q.Policy, policyViewLocal)
	if err != nil {
		return err
	}
	a := rpc.EnumAccountsReply{Resume: q.Resume, Status: status}
	if status == rpc.StatusOK {
		a.Status = rpc.StatusNoMoreEntries
		for i := int(min(uint64(q.Resume), uint64(len(accounts.PrivilegeHolders)))); i < len(accounts.PrivilegeHolders); i++ {
			a.SIDs = append(a.SIDs, accounts.PrivilegeHolders[i].SID)
			a.Status = rpc.StatusOK
		}
		a.Resume = uint32(len(accounts.PrivilegeHolders))
	}
	a.Encode(out)
	return nil
}

// accountRights is LsarEnumerateAccountRights (MS-LSAD 3.1.4.5.10).
func (c *calls) accountRights(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.AccountRightsRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	status, err := c.mayUsePolicy(q.Policy, policyLookupNames)
	if err != nil {
		return err
	}
	a := rpc.AccountRightsReply{Status: status}
	if status == rpc.StatusOK {
		a.Status = rpc.StatusLsaNotFound
		for _, h := range accounts.PrivilegeHolders {
			if h.SID == q.SID {
				a.Rights, a.Status = privilegeNames(h.Privileges), rpc.StatusOK
			}
		}
	}
	a.Encode(out)
	return nil
}

func privilegeNames(of fscc.Privileges) (names []string) {
	for _, p := range privileges {
		if of&p.bit != 0 {
			names = append(names, p.Name)
		}
	}
	return names
}

// accountsWithRight is LsarEnumerateAccountsWithUserRight (MS-LSAD 3.1.4.5.9).
func (c *calls) accountsWithRight(in *rpc.Decoder, out *rpc.Encoder) error {
	q := rpc.NameRequest{Optional: true}
	if err := q.Decode(in); err != nil {
		return err
	}
	status, err := c.mayUsePolicy(q.Policy, policyLookupNames|policyViewLocal)
	if err != nil {
		return err
	}
	a := rpc.EnumAccountsReply{Right: true, Status: status}
	if status == rpc.StatusOK {
		a.Status = rpc.StatusNoSuchPrivilege
		want := ^fscc.Privileges(0)
		if q.Name != "" {
			want = privilege(func(p rpc.Privilege) bool { return strings.EqualFold(p.Name, q.Name) }).bit
		}
		for _, h := range accounts.PrivilegeHolders {
			if h.Privileges&want != 0 {
				a.SIDs, a.Status = append(a.SIDs, h.SID), rpc.StatusOK
			}
		}
	}
	a.Encode(out)
	return nil
}

// privilege finds a privilege; its zero value if there is none.
func privilege(is func(rpc.Privilege) bool) (found struct {
	rpc.Privilege
	bit fscc.Privileges
}) {
	for _, p := range privileges {
		if is(p.Privilege) {
			return p
		}
	}
	return found
}

// privilegeValue is LsarLookupPrivilegeValue (MS-LSAD 3.1.4.8.3).
func (c *calls) privilegeValue(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.NameRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	status, err := c.mayUsePolicy(q.Policy, policyLookupNames)
	if err != nil {
		return err
	}
	a := rpc.PrivilegeValueReply{Status: status}
	if status == rpc.StatusOK {
		a.LUID = privilege(func(p rpc.Privilege) bool { return strings.EqualFold(p.Name, q.Name) }).LUID
		if a.LUID == 0 {
			a.Status = rpc.StatusNoSuchPrivilege
		}
	}
	a.Encode(out)
	return nil
}

// privilegeName is LsarLookupPrivilegeName (MS-LSAD 3.1.4.8.4).
func (c *calls) privilegeName(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.PrivilegeNameRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	status, err := c.mayUsePolicy(q.Policy, policyLookupNames)
	if err != nil {
		return err
	}
	a := rpc.PrivilegeNameReply{Status: status}
	if status == rpc.StatusOK {
		a.Name = privilege(func(p rpc.Privilege) bool { return p.LUID == q.LUID }).Name
		if a.Name == "" {
			a.Status = rpc.StatusNoSuchPrivilege
		}
	}
	a.Encode(out)
	return nil
}
