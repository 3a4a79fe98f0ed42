package shares

import (
	"encoding/binary"
	"fmt"

	"lunless/smbstore/fscc"
	"lunless/smbstore/rpc"
	"lunless/smbstore/smb2"
)

// controlCodes are all that MS-SMB2 and MS-FSCC name, and some they do not.
var controlCodes = []smb2.CtlCode{
	smb2.FsctlDFSGetReferrals, smb2.FsctlDFSGetReferralsEx, smb2.FsctlPipePeek, smb2.FsctlPipeWait, smb2.FsctlPipeTransceive,
	smb2.FsctlSrvCopychunk, smb2.FsctlSrvCopychunkWrite, smb2.FsctlSrvEnumerateSnapshots, smb2.FsctlSrvRequestResumeKey,
	smb2.FsctlSrvReadHash, smb2.FsctlLMRRequestResiliency, smb2.FsctlQueryNetworkInterfaceInfo, smb2.FsctlValidateNegotiateInfo,
	fscc.FSCTL_IS_PATHNAME_VALID, fscc.FSCTL_GET_COMPRESSION, fscc.FSCTL_QUERY_FAT_BPB, fscc.FSCTL_FILESYSTEM_GET_STATISTICS,
	fscc.FSCTL_GET_NTFS_VOLUME_DATA, fscc.FSCTL_GET_RETRIEVAL_POINTERS, fscc.FSCTL_FIND_FILES_BY_SID, fscc.FSCTL_SET_OBJECT_ID,
	fscc.FSCTL_GET_OBJECT_ID, fscc.FSCTL_DELETE_OBJECT_ID, fscc.FSCTL_SET_REPARSE_POINT, fscc.FSCTL_GET_REPARSE_POINT,
	fscc.FSCTL_DELETE_REPARSE_POINT, fscc.FSCTL_SET_OBJECT_ID_EXTENDED, fscc.FSCTL_CREATE_OR_GET_OBJECT_ID, fscc.FSCTL_SET_SPARSE,
	fscc.FSCTL_SET_ENCRYPTION, fscc.FSCTL_READ_FILE_USN_DATA, fscc.FSCTL_WRITE_USN_CLOSE_RECORD, fscc.FSCTL_MARK_HANDLE,
	fscc.FSCTL_SIS_COPYFILE, fscc.FSCTL_RECALL_FILE, fscc.FSCTL_QUERY_SPARING_INFO, fscc.FSCTL_QUERY_ON_DISK_VOLUME_INFO,
	fscc.FSCTL_SET_ZERO_ON_DEALLOCATION, fscc.FSCTL_GET_INTEGRITY_INFORMATION, fscc.FSCTL_QUERY_FILE_REGIONS,
	fscc.FSCTL_GET_REFS_VOLUME_DATA, fscc.FSCTL_SET_INTEGRITY_INFORMATION_EX, fscc.FSCTL_GET_RETRIEVAL_POINTERS_AND_REFCOUNT,
	fscc.FSCTL_GET_RETRIEVAL_POINTER_COUNT, fscc.FSCTL_REFS_STREAM_SNAPSHOT_MANAGEMENT, fscc.FSCTL_QUERY_ALLOCATED_RANGES,
	fscc.FSCTL_OFFLOAD_READ, fscc.FSCTL_SET_ZERO_DATA, fscc.FSCTL_SET_DEFECT_MANAGEMENT, fscc.FSCTL_FILE_LEVEL_TRIM,
	fscc.FSCTL_OFFLOAD_WRITE, fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE, fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX,
	fscc.FSCTL_SET_COMPRESSION, fscc.FSCTL_SET_INTEGRITY_INFORMATION, fscc.FSCTL_LMR_SET_LINK_TRACKING_INFORMATION,
	smb2.FsctlSVHDXSyncTunnel, smb2.FsctlSVHDXAsyncTunnel, smb2.FsctlQuerySharedVirtualDiskSupport, smb2.FsctlStorageQoSControl,
	0x00090000, 0x00090240, 0x00110000, 0x00090318, 0x0009031C, 0, 0xFFFFFFFF,
}

func (c *pduClient) ioctlSeed() seed {
	code := pick(c.m, controlCodes...)
	if c.m.IntN(2) == 0 { // those that do something
		code = pick(c.m, smb2.FsctlSrvCopychunk, smb2.FsctlSrvCopychunkWrite, fscc.FSCTL_SET_ZERO_DATA, fscc.FSCTL_FILE_LEVEL_TRIM,
			fscc.FSCTL_QUERY_ALLOCATED_RANGES, fscc.FSCTL_SET_SPARSE, smb2.FsctlSrvRequestResumeKey, smb2.FsctlPipeWait,
			fscc.FSCTL_SET_COMPRESSION, fscc.FSCTL_GET_OBJECT_ID, fscc.FSCTL_OFFLOAD_READ, fscc.FSCTL_OFFLOAD_WRITE,
			fscc.FSCTL_QUERY_FILE_REGIONS)
	}
	id := c.anyFile()
	switch code {
	case smb2.FsctlDFSGetReferrals, smb2.FsctlDFSGetReferralsEx, smb2.FsctlPipeWait, smb2.FsctlQueryNetworkInterfaceInfo, smb2.FsctlValidateNegotiateInfo:
		id = smb2.RelatedFileID
	}
	tree := c.world.disk
	if code == smb2.FsctlPipeWait && c.m.IntN(2) == 0 {
		tree = c.world.ipc
	}
	return c.ioctl(tree, id, code, c.controlInput(code))
}

func (c *pduClient) ioctl(tree uint32, id smb2.FileID, code smb2.CtlCode, in []byte) seed {
	out := pick(c.m, 0, 12, 24, 32, 64, 4096, 65536)
	q := &smb2.IoctlRequest{CtlCode: code, FileID: id, Input: in, MaxOutputResponse: uint32(out), Flags: smb2.IoctlIsFSCTL}
	s := seed{name: smb2.CommandIoctl.String(), msg: c.pdu(smb2.CommandIoctl, tree, q, nil, out)}
	if len(in) > 0 {
		s.focus = smb2.HeaderSize + 56
	}
	return s
}

// controlInput is what the code takes.
func (c *pduClient) controlInput(code smb2.CtlCode) []byte {
	m, w := c.m, &c.world
	off, n := int64(m.IntN(1<<16)), int64(m.IntN(1<<16))
	switch code {
	case smb2.FsctlSrvCopychunk, smb2.FsctlSrvCopychunkWrite:
		q := &smb2.CopychunkCopy{}
		binary.LittleEndian.PutUint64(q.SourceKey[0:], w.again.Persistent)
		binary.LittleEndian.PutUint64(q.SourceKey[8:], w.again.Volatile)
		for range m.IntN(pick(m, 3, 17, 300)) {
			q.Chunks = append(q.Chunks, smb2.CopychunkChunk{SourceOffset: uint64(m.IntN(8192)), TargetOffset: uint64(m.IntN(8192)), Length: uint32(m.IntN(4096))})
		}
		return encoded(q)
	case smb2.FsctlValidateNegotiateInfo:
		return encoded(&smb2.ValidateNegotiateInfoRequest{Capabilities: smb2.CapEncryption | smb2.CapLargeMTU, GUID: smb2.GUID{1, 2, 3},
			SecurityMode: smb2.SigningEnabled, Dialects: []smb2.Dialect{c.dialect}})
	case smb2.FsctlLMRRequestResiliency:
		return encoded(&smb2.NetworkResiliencyRequest{Timeout: 1000})
	case smb2.FsctlPipeWait:
		return encoded(&fscc.PipeWait{Name: "srvsvc", Timeout: 100, TimeoutSpecified: true})
	case fscc.FSCTL_SET_SPARSE:
		return encoded(&fscc.SetSparse{Sparse: m.IntN(2) == 0})
	case fscc.FSCTL_SET_ZERO_DATA:
		return encoded(&fscc.ZeroData{Offset: off, Beyond: off + n})
	case fscc.FSCTL_QUERY_ALLOCATED_RANGES:
		return encoded(&fscc.ByteRange{Offset: off, Length: n})
	case fscc.FSCTL_FILE_LEVEL_TRIM:
		q := &fscc.Trim{}
		for range m.IntN(pick(m, 3, 30)) {
			q.Ranges = append(q.Ranges, fscc.ByteRange{Offset: int64(m.IntN(1 << 16)), Length: n})
		}
		return encoded(q)
	case fscc.FSCTL_SET_COMPRESSION:
		return encoded(&fscc.CompressionState{Format: uint16(m.IntN(3))})
	case fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE:
		return encoded(&fscc.DuplicateExtents{SourceFileID: fileIDBytes(w.again), SourceOffset: off &^ 4095, ByteCount: n &^ 4095})
	case fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX:
		return encoded(&fscc.DuplicateExtentsEx{DuplicateExtents: fscc.DuplicateExtents{
			SourceFileID: fileIDBytes(w.again), SourceOffset: off &^ 4095, ByteCount: n &^ 4095}, Flags: uint32(m.IntN(2))})
	case fscc.FSCTL_OFFLOAD_READ:
		return encoded(&fscc.OffloadReadInput{FileOffset: uint64(off&8191) &^ 511, CopyLength: uint64(n) &^ 511, TokenTimeToLive: uint32(m.IntN(3000))})
	case fscc.FSCTL_OFFLOAD_WRITE:
		return encoded(&fscc.OffloadWriteInput{FileOffset: uint64(off&8191) &^ 511, CopyLength: uint64(n) &^ 511, Token: zeroToken()})
	case fscc.FSCTL_SET_INTEGRITY_INFORMATION:
		return encoded(&fscc.SetIntegrity{Algorithm: 2})
	case fscc.FSCTL_SET_INTEGRITY_INFORMATION_EX:
		return encoded(&fscc.SetIntegrityEx{Enable: m.IntN(2) == 0})
	case fscc.FSCTL_QUERY_FILE_REGIONS:
		return encoded(&fscc.FileRegion{Offset: off, Length: n, Usage: uint32(m.IntN(4))})
	}
	return m.bytes(m.IntN(2) * m.IntN(128))
}

// querySeed asks for any class of any type of information.
func (c *pduClient) querySeed() seed {
	m := c.m
	out := pick(m, 0, 4, 8, 24, 40, 100, 4096, 65536)
	q := &smb2.QueryInfoRequest{
		InfoType:              smb2.InfoType(pick(m, 1, 1, 2, 3, 4)),
		FileInfoClass:         uint8(m.IntN(pick(m, 12, 66, 256))),
		OutputBufferLength:    uint32(out),
		AdditionalInformation: smb2.SecurityInformation(m.Uint32() & 0x1ff),
		Flags:                 smb2.QueryInfoFlags(m.IntN(8)),
		FileID:                c.anyFile(),
	}
	s := seed{name: smb2.CommandQueryInfo.String()}
	if m.IntN(4) == 0 {
		q.Input = m.bytes(m.IntN(64))
		s.focus = smb2.HeaderSize + 40
	}
	s.msg = c.pdu(smb2.CommandQueryInfo, c.world.disk, q, nil, out)
	return s
}

// setSeed sets any class of any type of information.
func (c *pduClient) setSeed() seed {
	m := c.m
	q := &smb2.SetInfoRequest{InfoType: smb2.InfoFile, FileID: c.anyFile()}
	switch m.IntN(8) {
	case 0, 1:
		q.InfoType, q.AdditionalInformation, q.Buffer = smb2.InfoSecurity, smb2.SecurityInformation(m.Uint32()&0x1f), c.descriptor()
	case 2:
		q.InfoType, q.FileInfoClass, q.Buffer = smb2.InfoFilesystem, uint8(m.IntN(12)), m.bytes(48)
	case 3:
		q.InfoType, q.Buffer = smb2.InfoQuota, m.bytes(64)
	default:
		q.FileInfoClass, q.Buffer = c.fileInfo()
	}
	return seed{smb2.CommandSetInfo.String(), c.pdu(smb2.CommandSetInfo, c.world.disk, q, nil, len(q.Buffer)), smb2.HeaderSize + 32}
}

func (c *pduClient) fileInfo() (class uint8, b []byte) {
	m := c.m
	size := int64(m.IntN(1 << 16))
	target := pick(m, fmt.Sprint("moved", m.IntN(20)), c.world.dir+`\moved`, `..\sentinel`, `out\sentinel`, `\moved`, "", c.world.dir, ":stream")
	switch k := pick(m, fscc.FileBasicInformation, fscc.FileRenameInformation, fscc.FileLinkInformation, fscc.FileDispositionInformation,
		fscc.FilePositionInformation, fscc.FileFullEaInformation, fscc.FileModeInformation, fscc.FileAllocationInformation,
		fscc.FileEndOfFileInformation, fscc.FilePipeInformation, fscc.FileValidDataLengthInformation, fscc.FileShortNameInformation,
		fscc.FileDispositionInformationEx, fscc.FileRenameInformationEx, fscc.InfoClass(m.IntN(256))); k {
	case fscc.FileBasicInformation:
		b = encoded(&fscc.BasicInfo{CreationTime: fscc.Filetime(m.Int64() >> 2), LastWriteTime: -1, ChangeTime: -2, Attributes: pick(m, uint32(0), 0x80, 0x20, 1, 2)})
		return uint8(k), b
	case fscc.FileRenameInformation, fscc.FileLinkInformation:
		return uint8(k), encoded(&fscc.RenameInfo{ReplaceIfExists: m.IntN(2) == 0, Name: target})
	case fscc.FileRenameInformationEx:
		return uint8(k), encoded(&fscc.RenameInfoEx{Flags: uint32(m.IntN(8)), Name: target})
	case fscc.FileDispositionInformation:
		return uint8(k), encoded(&fscc.DispositionInfo{DeletePending: m.IntN(4) == 0})
	case fscc.FileDispositionInformationEx:
		return uint8(k), encoded(&fscc.DispositionInfoEx{Flags: uint32(m.IntN(32) &^ 1)})
	case fscc.FilePositionInformation:
		return uint8(k), encoded(&fscc.PositionInfo{CurrentByteOffset: size})
	case fscc.FileFullEaInformation:
		return uint8(k), encodedEAs()
	case fscc.FileModeInformation:
		return uint8(k), encoded(&fscc.ModeInfo{Mode: pick(m, uint32(0), 2, 4, 16)})
	case fscc.FileAllocationInformation:
		return uint8(k), encoded(&fscc.AllocationInfo{AllocationSize: size})
	case fscc.FileEndOfFileInformation:
		return uint8(k), encoded(&fscc.EndOfFileInfo{EndOfFile: size})
	case fscc.FileValidDataLengthInformation:
		return uint8(k), encoded(&fscc.ValidDataLengthInfo{ValidDataLength: size})
	case fscc.FilePipeInformation:
		return uint8(k), encoded(&fscc.PipeInfo{ReadMode: 1})
	default:
		return uint8(k), m.bytes(m.IntN(100))
	}
}

// pipeSeed is a request on IPC$, most often with DCE/RPC in it.
func (c *pduClient) pipeSeed() seed {
	m, w := c.m, &c.world
	switch m.IntN(8) {
	case 0:
		q := createRequest(pick(m, "srvsvc", "wkssvc", "lsarpc", `\pipe\srvsvc`, "PIPE\\srvsvc", "", "x:y", "..\\x"))
		return seed{name: "CREATE (pipe)", msg: c.pdu(smb2.CommandCreate, w.ipc, q, nil, 0)}
	case 1, 2:
		return seed{name: "READ (pipe)", msg: c.pdu(smb2.CommandRead, w.ipc, &smb2.ReadRequest{Length: 4096, FileID: w.pipe}, nil, 4096)}
	case 3:
		q := &smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(pick(m, 4, 5, 23, 24, m.IntN(256))), OutputBufferLength: 100, FileID: w.pipe}
		return seed{name: "QUERY_INFO (pipe)", msg: c.pdu(smb2.CommandQueryInfo, w.ipc, q, nil, 100)}
	case 4, 5:
		s := c.ioctl(w.ipc, w.pipe, pick(m, smb2.FsctlPipeTransceive, smb2.FsctlPipeTransceive, smb2.FsctlPipePeek), c.rpcPDU())
		s.name += " (pipe)"
		return s
	}
	b := c.rpcPDU()
	msg := c.write(w.ipc, w.pipe, 0, b)
	return seed{"WRITE (pipe)", msg, len(msg) - len(b)}
}

// rpcPDU is a bind or a call (C706 12.6.4).
func (c *pduClient) rpcPDU() []byte {
	m := c.m
	if m.IntN(3) == 0 {
		q := &rpc.Bind{CallID: 1, Alter: m.IntN(4) == 0, MaxXmit: 4280, MaxRecv: 4280}
		for i := range 1 + m.IntN(3) {
			q.Contexts = append(q.Contexts, rpc.Context{ID: uint16(i), Abstract: pick(m, rpc.SyntaxSrvsvc, rpc.SyntaxWkssvc, rpc.SyntaxLsarpc, rpc.SyntaxNDR),
				Transfer: []rpc.Syntax{rpc.SyntaxNDR, rpc.SyntaxNDR64}})
		}
		return mustEncode(q.Encode())
	}
	e := rpc.NewEncoder(1 << 16)
	op := pick(m, uint16(rpc.OpNetrShareEnum), rpc.OpNetrShareEnumSticky, rpc.OpNetrShareGetInfo, rpc.OpNetrServerGetInfo,
		rpc.OpNetrRemoteTOD, rpc.OpNetrSessionEnum, rpc.OpNetrWkstaGetInfo, 60)
	level := pick(m, uint32(0), 1, 2, 100, 101, 501, 502, 503)
	if c.world.lsa {
		op = c.lsaCall(e)
	}
	switch {
	case c.world.lsa:
	case op == rpc.OpNetrShareEnum, op == rpc.OpNetrShareEnumSticky:
		(&rpc.ShareEnumRequest{Server: `\\server`, Level: level, PreferredMax: pick(m, ^uint32(0), 0, 100), HasResume: m.IntN(2) == 0}).Encode(e)
	case op == rpc.OpNetrShareGetInfo:
		(&rpc.ShareGetInfoRequest{Server: `\\server`, Share: "vms", Level: level}).Encode(e)
	default:
		(&rpc.LevelRequest{Server: `\\server`, Level: level}).Encode(e)
	}
	q := &rpc.Request{CallID: 2, Flags: pick(m, uint8(rpc.FlagFirst|rpc.FlagLast), rpc.FlagFirst|rpc.FlagLast, rpc.FlagFirst, 0, rpc.FlagLast),
		ContextID: uint16(m.IntN(2)), Opnum: op, Stub: mustEncode(e.Bytes())}
	q.AllocHint = uint32(len(q.Stub))
	return mustEncode(q.Encode())
}

func mustEncode(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
