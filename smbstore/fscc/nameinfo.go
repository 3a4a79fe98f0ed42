package fscc

// File information classes that carry names (MS-FSCC 2.4).

// NameInfo is FILE_NAME_INFORMATION (MS-FSCC 2.1.7): FileNameInformation,
// FileAlternateNameInformation, FileNormalizedNameInformation and
// FileShortNameInformation. A reply that does not fit its buffer is the encoded
// structure cut there (STATUS_BUFFER_OVERFLOW): the length stays that of the whole name.
type NameInfo struct{ Name string }

func (i *NameInfo) Size() int { return 4 + UTF16Len(i.Name) }

func (i *NameInfo) Encode(dst []byte) { i.put(&writer{b: dst}) }

func (i *NameInfo) put(w *writer) {
	w.u32(uint32(UTF16Len(i.Name)))
	w.name(i.Name)
}

func (i *NameInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.Name = r.name(r.u32())
	return r.done("FILE_NAME_INFORMATION")
}

// AllInfo is FILE_ALL_INFORMATION (MS-FSCC 2.4.2).
type AllInfo struct {
	Basic     BasicInfo
	Standard  StandardInfo
	Internal  InternalInfo
	Ea        EaInfo
	Access    AccessInfo
	Position  PositionInfo
	Mode      ModeInfo
	Alignment AlignmentInfo
	Name      NameInfo
}

// AllInfoFixedSize is the part of AllInfo before the name: the least buffer a query needs.
const AllInfoFixedSize = 100

func (i *AllInfo) Size() int { return AllInfoFixedSize - 4 + i.Name.Size() }

func (i *AllInfo) Encode(dst []byte) {
	w := writer{b: dst}
	i.Basic.put(&w)
	i.Standard.put(&w)
	w.u64(i.Internal.IndexNumber)
	w.u32(i.Ea.EaSize)
	w.u32(uint32(i.Access.Access))
	w.i64(i.Position.CurrentByteOffset)
	w.u32(i.Mode.Mode)
	w.u32(i.Alignment.Requirement)
	i.Name.put(&w)
}

func (i *AllInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.Basic.get(&r)
	i.Standard.get(&r)
	i.Internal.IndexNumber = r.u64()
	i.Ea.EaSize = r.u32()
	i.Access.Access = AccessMask(r.u32())
	i.Position.CurrentByteOffset = r.size()
	i.Mode.Mode = r.u32()
	i.Alignment.Requirement = r.u32()
	i.Name.Name = r.name(r.u32())
	return r.done("FILE_ALL_INFORMATION")
}

// RenameInfo is FILE_RENAME_INFORMATION_TYPE_2 (MS-FSCC 2.4.42.2), the form SMB2
// uses, and FILE_LINK_INFORMATION_TYPE_2 (MS-FSCC 2.4.28.2), which is the same.
type RenameInfo struct {
	ReplaceIfExists bool
	RootDirectory   uint64 // must be 0 over the network; the server refuses others
	Name            string // separated by '\\', from the root of the share
}

// LinkInfo is FILE_LINK_INFORMATION_TYPE_2 (MS-FSCC 2.4.28.2).
type LinkInfo = RenameInfo

// renameMinSize is the least size of the rename structures, padding included.
const renameMinSize = 24

func (i *RenameInfo) Size() int { return max(renameMinSize, 20+UTF16Len(i.Name)) }

func (i *RenameInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.boolean(i.ReplaceIfExists)
	w.zero(7)
	w.u64(i.RootDirectory)
	putRenameName(&w, i.Name)
}

func putRenameName(w *writer, name string) {
	w.u32(uint32(UTF16Len(name)))
	w.name(name)
	w.zero(max(0, renameMinSize-w.off))
}

// Decode refuses an empty name. It accepts a structure without the padding to 24
// bytes, which clients leave out for names of one character.
func (i *RenameInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.ReplaceIfExists = r.boolean()
	r.skip(7)
	i.RootDirectory = r.u64()
	i.Name = r.name(r.u32())
	r.check(i.Name != "")
	return r.done("FILE_RENAME_INFORMATION")
}

// Flags of RenameInfoEx (MS-FSCC 2.4.43).
const (
	FILE_RENAME_REPLACE_IF_EXISTS                    = 0x00000001
	FILE_RENAME_POSIX_SEMANTICS                      = 0x00000002
	FILE_RENAME_SUPPRESS_PIN_STATE_INHERITANCE       = 0x00000004
	FILE_RENAME_SUPPRESS_STORAGE_RESERVE_INHERITANCE = 0x00000008
	FILE_RENAME_NO_INCREASE_AVAILABLE_SPACE          = 0x00000010
	FILE_RENAME_NO_DECREASE_AVAILABLE_SPACE          = 0x00000020
	FILE_RENAME_IGNORE_READONLY_ATTRIBUTE            = 0x00000040
	FILE_RENAME_FORCE_RESIZE_TARGET_SR               = 0x00000080
	FILE_RENAME_FORCE_RESIZE_SOURCE_SR               = 0x00000100
)

// RenameInfoEx is FILE_RENAME_INFORMATION_EX (MS-FSCC 2.4.43).
type RenameInfoEx struct {
	Flags         uint32
	RootDirectory uint64
	Name          string
}

func (i *RenameInfoEx) Size() int { return max(renameMinSize, 20+UTF16Len(i.Name)) }

func (i *RenameInfoEx) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.Flags)
	w.u32(0)
	w.u64(i.RootDirectory)
	putRenameName(&w, i.Name)
}

// Decode refuses an empty name.
func (i *RenameInfoEx) Decode(b []byte) error {
	r := reader{b: b}
	i.Flags = r.u32()
	r.skip(4)
	i.RootDirectory = r.u64()
	i.Name = r.name(r.u32())
	r.check(i.Name != "")
	return r.done("FILE_RENAME_INFORMATION_EX")
}
