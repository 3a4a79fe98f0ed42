package fscc

// AccessMask says what may be done to an object (MS-DTYP 2.4.3, MS-SMB2 2.2.13.1).
type AccessMask uint32

// Access rights of files (MS-SMB2 2.2.13.1.1).
const (
	FILE_READ_DATA        AccessMask = 0x00000001
	FILE_WRITE_DATA       AccessMask = 0x00000002
	FILE_APPEND_DATA      AccessMask = 0x00000004
	FILE_READ_EA          AccessMask = 0x00000008
	FILE_WRITE_EA         AccessMask = 0x00000010
	FILE_EXECUTE          AccessMask = 0x00000020
	FILE_DELETE_CHILD     AccessMask = 0x00000040
	FILE_READ_ATTRIBUTES  AccessMask = 0x00000080
	FILE_WRITE_ATTRIBUTES AccessMask = 0x00000100

	DELETE                 AccessMask = 0x00010000
	READ_CONTROL           AccessMask = 0x00020000
	WRITE_DAC              AccessMask = 0x00040000
	WRITE_OWNER            AccessMask = 0x00080000
	SYNCHRONIZE            AccessMask = 0x00100000
	ACCESS_SYSTEM_SECURITY AccessMask = 0x01000000
	MAXIMUM_ALLOWED        AccessMask = 0x02000000
	GENERIC_ALL            AccessMask = 0x10000000
	GENERIC_EXECUTE        AccessMask = 0x20000000
	GENERIC_WRITE          AccessMask = 0x40000000
	GENERIC_READ           AccessMask = 0x80000000
)

// Names of the same bits on folders (MS-SMB2 2.2.13.1.2).
const (
	FILE_LIST_DIRECTORY   = FILE_READ_DATA
	FILE_ADD_FILE         = FILE_WRITE_DATA
	FILE_ADD_SUBDIRECTORY = FILE_APPEND_DATA
	FILE_TRAVERSE         = FILE_EXECUTE
)

// What the generic rights of files and folders stand for (MS-DTYP 2.4.3 leaves
// it to the object; these are the file system's).
const (
	FILE_GENERIC_READ = READ_CONTROL | SYNCHRONIZE | FILE_READ_DATA | FILE_READ_ATTRIBUTES | FILE_READ_EA

	FILE_GENERIC_WRITE = READ_CONTROL | SYNCHRONIZE | FILE_WRITE_DATA | FILE_APPEND_DATA |
		FILE_WRITE_ATTRIBUTES | FILE_WRITE_EA

	FILE_GENERIC_EXECUTE = READ_CONTROL | SYNCHRONIZE | FILE_READ_ATTRIBUTES | FILE_EXECUTE

	FILE_ALL_ACCESS = DELETE | READ_CONTROL | WRITE_DAC | WRITE_OWNER | SYNCHRONIZE | 0x1FF

	genericRights = GENERIC_ALL | GENERIC_EXECUTE | GENERIC_WRITE | GENERIC_READ
)

// ValidAccessMask is every bit a client may ask of a file.
const ValidAccessMask = FILE_ALL_ACCESS | ACCESS_SYSTEM_SECURITY | MAXIMUM_ALLOWED | genericRights

// MapGeneric replaces the generic rights in m by the file rights they stand for.
func (m AccessMask) MapGeneric() AccessMask {
	out := m &^ genericRights
	if m&GENERIC_READ != 0 {
		out |= FILE_GENERIC_READ
	}
	if m&GENERIC_WRITE != 0 {
		out |= FILE_GENERIC_WRITE
	}
	if m&GENERIC_EXECUTE != 0 {
		out |= FILE_GENERIC_EXECUTE
	}
	if m&GENERIC_ALL != 0 {
		out |= FILE_ALL_ACCESS
	}
	return out
}
