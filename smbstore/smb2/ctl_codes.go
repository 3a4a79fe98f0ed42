package smb2

import "fmt"

// CtlCode is a control code of IOCTL (MS-SMB2 2.2.31, MS-FSCC 2.3).
type CtlCode uint32

// Control codes whose processing MS-SMB2 itself describes (MS-SMB2 2.2.31).
const (
	FsctlDFSGetReferrals           CtlCode = 0x00060194
	FsctlDFSGetReferralsEx         CtlCode = 0x000601B0
	FsctlPipePeek                  CtlCode = 0x0011400C
	FsctlPipeWait                  CtlCode = 0x00110018
	FsctlPipeTransceive            CtlCode = 0x0011C017
	FsctlSrvCopychunk              CtlCode = 0x001440F2
	FsctlSrvCopychunkWrite         CtlCode = 0x001480F2
	FsctlSrvEnumerateSnapshots     CtlCode = 0x00144064
	FsctlSrvRequestResumeKey       CtlCode = 0x00140078
	FsctlSrvReadHash               CtlCode = 0x001441BB
	FsctlLMRRequestResiliency      CtlCode = 0x001401D4
	FsctlQueryNetworkInterfaceInfo CtlCode = 0x001401FC
	FsctlValidateNegotiateInfo     CtlCode = 0x00140204
	FsctlSetReparsePoint           CtlCode = 0x000900A4
	FsctlFileLevelTrim             CtlCode = 0x00098208

	FsctlQuerySharedVirtualDiskSupport CtlCode = 0x00090300 // MS-RSVD 2.2.1
	FsctlSVHDXSyncTunnel               CtlCode = 0x00090304
	FsctlSVHDXAsyncTunnel              CtlCode = 0x00090364
	FsctlStorageQoSControl             CtlCode = 0x00090350 // MS-SQOS 2.2.1
)

var ctlCodeNames = map[CtlCode]string{
	FsctlDFSGetReferrals:           "FSCTL_DFS_GET_REFERRALS",
	FsctlDFSGetReferralsEx:         "FSCTL_DFS_GET_REFERRALS_EX",
	FsctlPipePeek:                  "FSCTL_PIPE_PEEK",
	FsctlPipeWait:                  "FSCTL_PIPE_WAIT",
	FsctlPipeTransceive:            "FSCTL_PIPE_TRANSCEIVE",
	FsctlSrvCopychunk:              "FSCTL_SRV_COPYCHUNK",
	FsctlSrvCopychunkWrite:         "FSCTL_SRV_COPYCHUNK_WRITE",
	FsctlSrvEnumerateSnapshots:     "FSCTL_SRV_ENUMERATE_SNAPSHOTS",
	FsctlSrvRequestResumeKey:       "FSCTL_SRV_REQUEST_RESUME_KEY",
	FsctlSrvReadHash:               "FSCTL_SRV_READ_HASH",
	FsctlLMRRequestResiliency:      "FSCTL_LMR_REQUEST_RESILIENCY",
	FsctlQueryNetworkInterfaceInfo: "FSCTL_QUERY_NETWORK_INTERFACE_INFO",
	FsctlValidateNegotiateInfo:     "FSCTL_VALIDATE_NEGOTIATE_INFO",
	FsctlSetReparsePoint:           "FSCTL_SET_REPARSE_POINT",
	FsctlFileLevelTrim:             "FSCTL_FILE_LEVEL_TRIM",

	FsctlQuerySharedVirtualDiskSupport: "FSCTL_QUERY_SHARED_VIRTUAL_DISK_SUPPORT",
	FsctlSVHDXSyncTunnel:               "FSCTL_SVHDX_SYNC_TUNNEL_REQUEST",
	FsctlSVHDXAsyncTunnel:              "FSCTL_SVHDX_ASYNC_TUNNEL_REQUEST",
	FsctlStorageQoSControl:             "FSCTL_STORAGE_QOS_CONTROL",
}

func (c CtlCode) String() string {
	if name, ok := ctlCodeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("control code 0x%08X", uint32(c))
}
