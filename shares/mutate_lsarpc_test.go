package shares

import (
	"lunless/smbstore/fscc"
	"lunless/smbstore/rpc"
)

// lsaCall writes the parameters of an operation of lsarpc. The handle is none of
// the server's: handles are made up anew for each pipe, and what the parameters
// hold is read before anybody asks for it.
func (c *pduClient) lsaCall(e *rpc.Encoder) (op uint16) {
	m := c.m
	var h rpc.Handle
	copy(h[:], m.bytes(len(h)))
	sids := make([]fscc.SID, m.IntN(4))
	names := make([]string, m.IntN(4))
	for i := range sids {
		sids[i] = pick(m, fscc.SIDEveryone, fscc.SIDAdministrators, fscc.SIDHyperVAdmins)
	}
	for i := range names {
		names[i] = pick(m, "hv", `BUILTIN\Users`, "a@b", "", "Everyone")
	}
	switch op = pick(m, uint16(rpc.OpLsarClose), rpc.OpLsarOpenPolicy, rpc.OpLsarOpenPolicy2, rpc.OpLsarLookupNames, rpc.OpLsarLookupNames2,
		rpc.OpLsarLookupNames3, rpc.OpLsarLookupNames4, rpc.OpLsarLookupSids, rpc.OpLsarLookupSids2, rpc.OpLsarLookupSids3,
		rpc.OpLsarQueryInformationPolicy, rpc.OpLsarGetUserName, rpc.OpLsarEnumeratePrivileges, rpc.OpLsarEnumerateAccountRights,
		rpc.OpLsarEnumerateAccountsWithUserRight, rpc.OpLsarLookupPrivilegeName); op {
	case rpc.OpLsarOpenPolicy, rpc.OpLsarOpenPolicy2:
		(&rpc.OpenPolicyRequest{Old: op == rpc.OpLsarOpenPolicy, Server: `\\server`, Access: 0x02000000, Rooted: m.IntN(4) == 0}).Encode(e)
	case rpc.OpLsarLookupNames, rpc.OpLsarLookupNames2, rpc.OpLsarLookupNames3, rpc.OpLsarLookupNames4:
		(&rpc.LookupNamesRequest{Op: op, Policy: h, Names: names}).Encode(e)
	case rpc.OpLsarLookupSids, rpc.OpLsarLookupSids2, rpc.OpLsarLookupSids3:
		(&rpc.LookupSidsRequest{Op: op, Policy: h, SIDs: sids}).Encode(e)
	case rpc.OpLsarQueryInformationPolicy:
		(&rpc.QueryPolicyRequest{Policy: h, Class: uint16(m.IntN(14))}).Encode(e)
	case rpc.OpLsarGetUserName:
		(&rpc.UserNameRequest{WantDomain: m.IntN(2) == 0}).Encode(e)
	case rpc.OpLsarEnumeratePrivileges:
		(&rpc.EnumRequest{Policy: h, Resume: m.Uint32()}).Encode(e)
	case rpc.OpLsarEnumerateAccountRights:
		(&rpc.AccountRightsRequest{Policy: h, SID: fscc.SIDEveryone}).Encode(e)
	case rpc.OpLsarEnumerateAccountsWithUserRight:
		(&rpc.NameRequest{Optional: true, Policy: h, Name: pick(m, "", "SeBackupPrivilege")}).Encode(e)
	case rpc.OpLsarLookupPrivilegeName:
		(&rpc.PrivilegeNameRequest{Policy: h, LUID: 17}).Encode(e)
	default:
		(&rpc.HandleRequest{Handle: h}).Encode(e)
	}
	return op
}
