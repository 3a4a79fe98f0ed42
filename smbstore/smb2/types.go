package smb2

import "fmt"

// GUID is a GUID in its wire order (MS-DTYP 2.3.4.2).
type GUID [16]byte

// String is the usual spelling, 8-4-4-4-12 hexadecimal digits in lower case.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[0:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// IsZero reports the nil GUID.
func (g GUID) IsZero() bool { return g == GUID{} }

// FileID names an open (MS-SMB2 2.2.14.1).
type FileID struct {
	Persistent uint64
	Volatile   uint64
}

// RelatedFileID stands for the open of the request before in a related compound (MS-SMB2 3.3.5.2.7.2).
var RelatedFileID = FileID{^uint64(0), ^uint64(0)}

func (id FileID) String() string { return fmt.Sprintf("%x:%x", id.Persistent, id.Volatile) }

// Filetime is a time as it travels: 100 ns intervals since 1601-01-01 UTC, 0 for none (MS-DTYP 2.3.3).
type Filetime uint64

// Dialect is a dialect revision number (MS-SMB2 2.2.3).
type Dialect uint16

// Dialects. DialectWildcard is the answer to an SMB1 negotiate that named
// "SMB 2.???" (MS-SMB2 3.3.5.3.1): the client then sends an SMB2 NEGOTIATE.
const (
	Dialect202      Dialect = 0x0202
	Dialect210      Dialect = 0x0210
	Dialect300      Dialect = 0x0300
	Dialect302      Dialect = 0x0302
	Dialect311      Dialect = 0x0311
	DialectWildcard Dialect = 0x02FF
)

func (d Dialect) String() string {
	switch d {
	case Dialect202:
		return "2.0.2"
	case Dialect210:
		return "2.1"
	case Dialect300:
		return "3.0"
	case Dialect302:
		return "3.0.2"
	case Dialect311:
		return "3.1.1"
	case DialectWildcard:
		return "2.???"
	}
	return fmt.Sprintf("dialect 0x%04X", uint16(d))
}

// SecurityMode is what a side wants of signing (MS-SMB2 2.2.3, 2.2.4, 2.2.5).
type SecurityMode uint16

// Security modes.
const (
	SigningEnabled  SecurityMode = 0x0001
	SigningRequired SecurityMode = 0x0002
)

// Capabilities are the global capabilities of a side (MS-SMB2 2.2.3, 2.2.4).
type Capabilities uint32

// Global capabilities.
const (
	CapDFS               Capabilities = 0x00000001
	CapLeasing           Capabilities = 0x00000002
	CapLargeMTU          Capabilities = 0x00000004
	CapMultiChannel      Capabilities = 0x00000008
	CapPersistentHandles Capabilities = 0x00000010
	CapDirectoryLeasing  Capabilities = 0x00000020
	CapEncryption        Capabilities = 0x00000040
	CapNotifications     Capabilities = 0x00000080
)

// AccessMask is the access an open asks for or has (MS-SMB2 2.2.13.1).
type AccessMask uint32

// Access to files, pipes and printers (MS-SMB2 2.2.13.1.1) and, by their second
// names, to directories (MS-SMB2 2.2.13.1.2).
const (
	FileReadData         AccessMask = 0x00000001
	FileListDirectory    AccessMask = 0x00000001
	FileWriteData        AccessMask = 0x00000002
	FileAddFile          AccessMask = 0x00000002
	FileAppendData       AccessMask = 0x00000004
	FileAddSubdirectory  AccessMask = 0x00000004
	FileReadEA           AccessMask = 0x00000008
	FileWriteEA          AccessMask = 0x00000010
	FileExecute          AccessMask = 0x00000020
	FileTraverse         AccessMask = 0x00000020
	FileDeleteChild      AccessMask = 0x00000040
	FileReadAttributes   AccessMask = 0x00000080
	FileWriteAttributes  AccessMask = 0x00000100
	Delete               AccessMask = 0x00010000
	ReadControl          AccessMask = 0x00020000
	WriteDAC             AccessMask = 0x00040000
	WriteOwner           AccessMask = 0x00080000
	Synchronize          AccessMask = 0x00100000
	AccessSystemSecurity AccessMask = 0x01000000
	MaximumAllowed       AccessMask = 0x02000000
	GenericAll           AccessMask = 0x10000000
	GenericExecute       AccessMask = 0x20000000
	GenericWrite         AccessMask = 0x40000000
	GenericRead          AccessMask = 0x80000000
)

// ShareAccess is what an open allows others meanwhile (MS-SMB2 2.2.13).
type ShareAccess uint32

// Share modes.
const (
	FileShareRead   ShareAccess = 0x00000001
	FileShareWrite  ShareAccess = 0x00000002
	FileShareDelete ShareAccess = 0x00000004
)

// CreateDisposition says what to do where the file exists, and where not (MS-SMB2 2.2.13).
type CreateDisposition uint32

// Create dispositions.
const (
	FileSupersede   CreateDisposition = 0
	FileOpen        CreateDisposition = 1
	FileCreate      CreateDisposition = 2
	FileOpenIf      CreateDisposition = 3
	FileOverwrite   CreateDisposition = 4
	FileOverwriteIf CreateDisposition = 5
)

// CreateOptions are the options of an open (MS-SMB2 2.2.13).
type CreateOptions uint32

// Create options.
const (
	FileDirectoryFile           CreateOptions = 0x00000001
	FileWriteThrough            CreateOptions = 0x00000002
	FileSequentialOnly          CreateOptions = 0x00000004
	FileNoIntermediateBuffering CreateOptions = 0x00000008
	FileSynchronousIOAlert      CreateOptions = 0x00000010
	FileSynchronousIONonalert   CreateOptions = 0x00000020
	FileNonDirectoryFile        CreateOptions = 0x00000040
	FileCompleteIfOplocked      CreateOptions = 0x00000100
	FileNoEAKnowledge           CreateOptions = 0x00000200
	FileOpenRemoteInstance      CreateOptions = 0x00000400
	FileRandomAccess            CreateOptions = 0x00000800
	FileDeleteOnClose           CreateOptions = 0x00001000
	FileOpenByFileID            CreateOptions = 0x00002000
	FileOpenForBackupIntent     CreateOptions = 0x00004000
	FileNoCompression           CreateOptions = 0x00008000
	FileOpenRequiringOplock     CreateOptions = 0x00010000
	FileDisallowExclusive       CreateOptions = 0x00020000
	FileReserveOpfilter         CreateOptions = 0x00100000
	FileOpenReparsePoint        CreateOptions = 0x00200000
	FileOpenNoRecall            CreateOptions = 0x00400000
	FileOpenForFreeSpaceQuery   CreateOptions = 0x00800000
)

// CreateAction says what an open did (MS-SMB2 2.2.14).
type CreateAction uint32

// Create actions.
const (
	FileSuperseded  CreateAction = 0
	FileOpened      CreateAction = 1
	FileCreated     CreateAction = 2
	FileOverwritten CreateAction = 3
)

// ImpersonationLevel of an open (MS-SMB2 2.2.13).
type ImpersonationLevel uint32

// Impersonation levels.
const (
	ImpersonationAnonymous      ImpersonationLevel = 0
	ImpersonationIdentification ImpersonationLevel = 1
	ImpersonationImpersonation  ImpersonationLevel = 2
	ImpersonationDelegate       ImpersonationLevel = 3
)

// OplockLevel is the oplock asked for, granted or broken to (MS-SMB2 2.2.13, 2.2.14, 2.2.23).
type OplockLevel uint8

// Oplock levels.
const (
	OplockNone      OplockLevel = 0x00
	OplockII        OplockLevel = 0x01
	OplockExclusive OplockLevel = 0x08
	OplockBatch     OplockLevel = 0x09
	OplockLease     OplockLevel = 0xFF
)

// LeaseState is what a lease lets a client cache (MS-SMB2 2.2.13.2.8).
type LeaseState uint32

// Lease states.
const (
	LeaseNone          LeaseState = 0
	LeaseReadCaching   LeaseState = 0x01
	LeaseHandleCaching LeaseState = 0x02
	LeaseWriteCaching  LeaseState = 0x04
)

// LeaseFlags of a lease context (MS-SMB2 2.2.13.2.10, 2.2.14.2.10) and of a break (2.2.23.2).
type LeaseFlags uint32

// Lease flags.
const (
	LeaseFlagBreakAckRequired  LeaseFlags = 0x01 // in a break notification
	LeaseFlagBreakInProgress   LeaseFlags = 0x02 // in a CREATE response
	LeaseFlagParentLeaseKeySet LeaseFlags = 0x04 // version 2 contexts
)

// ShareType of a tree connect (MS-SMB2 2.2.10).
type ShareType uint8

// Share types.
const (
	ShareTypeDisk  ShareType = 0x01
	ShareTypePipe  ShareType = 0x02
	ShareTypePrint ShareType = 0x03
)

// ShareFlags are properties of a share (MS-SMB2 2.2.10).
type ShareFlags uint32

// Share flags.
const (
	ShareFlagManualCaching            ShareFlags = 0x00000000
	ShareFlagDFS                      ShareFlags = 0x00000001
	ShareFlagDFSRoot                  ShareFlags = 0x00000002
	ShareFlagAutoCaching              ShareFlags = 0x00000010
	ShareFlagVDOCaching               ShareFlags = 0x00000020
	ShareFlagNoCaching                ShareFlags = 0x00000030
	ShareFlagRestrictExclusiveOpens   ShareFlags = 0x00000100
	ShareFlagForceSharedDelete        ShareFlags = 0x00000200
	ShareFlagAllowNamespaceCaching    ShareFlags = 0x00000400
	ShareFlagAccessBasedDirectoryEnum ShareFlags = 0x00000800
	ShareFlagForceLevelIIOplock       ShareFlags = 0x00001000
	ShareFlagEnableHashV1             ShareFlags = 0x00002000
	ShareFlagEnableHashV2             ShareFlags = 0x00004000
	ShareFlagEncryptData              ShareFlags = 0x00008000
	ShareFlagIdentityRemoting         ShareFlags = 0x00040000
	ShareFlagCompressData             ShareFlags = 0x00100000
	ShareFlagIsolatedTransport        ShareFlags = 0x00200000
)

// ShareCapabilities of a share (MS-SMB2 2.2.10).
type ShareCapabilities uint32

// Share capabilities.
const (
	ShareCapDFS                    ShareCapabilities = 0x00000008
	ShareCapContinuousAvailability ShareCapabilities = 0x00000010
	ShareCapScaleout               ShareCapabilities = 0x00000020
	ShareCapCluster                ShareCapabilities = 0x00000040
	ShareCapAsymmetric             ShareCapabilities = 0x00000080
	ShareCapRedirectToOwner        ShareCapabilities = 0x00000100
)

// Channel says where the data of a READ or WRITE travels (MS-SMB2 2.2.19, 2.2.21).
type Channel uint32

// Channels.
const (
	ChannelNone             Channel = 0
	ChannelRDMAV1           Channel = 1
	ChannelRDMAV1Invalidate Channel = 2
	ChannelRDMATransform    Channel = 3
)

// InfoType says what QUERY_INFO and SET_INFO are about (MS-SMB2 2.2.37, 2.2.39).
type InfoType uint8

// Info types.
const (
	InfoFile       InfoType = 0x01
	InfoFilesystem InfoType = 0x02
	InfoSecurity   InfoType = 0x03
	InfoQuota      InfoType = 0x04
)

// SecurityInformation are the parts of a security descriptor, the
// AdditionalInformation of QUERY_INFO and SET_INFO (MS-SMB2 2.2.37, 2.2.39).
type SecurityInformation uint32

// Parts of a security descriptor.
const (
	OwnerSecurityInformation     SecurityInformation = 0x00000001
	GroupSecurityInformation     SecurityInformation = 0x00000002
	DACLSecurityInformation      SecurityInformation = 0x00000004
	SACLSecurityInformation      SecurityInformation = 0x00000008
	LabelSecurityInformation     SecurityInformation = 0x00000010
	AttributeSecurityInformation SecurityInformation = 0x00000020
	ScopeSecurityInformation     SecurityInformation = 0x00000040
	BackupSecurityInformation    SecurityInformation = 0x00010000
)
