package fs

import (
	"encoding/binary"
	"strconv"

	"lunless/smbstore/fscc"

	"golang.org/x/sys/unix"
)

// Extended attributes that hold what POSIX has no place for. They are in the
// user namespace: no privilege is needed, and backup tools keep them.
const (
	xattrAttr = "user.lunless.attr" // storedAttr
	xattrSD   = "user.lunless.sd"   // self-relative security descriptor, MS-DTYP 2.4.6
)

// storedAttr is the value of user.lunless.attr, little-endian, 16 bytes, or 32
// where a change time was set:
//
//	0   version, 1; a zero byte
//	2   EASize of the extended attributes, which are kept elsewhere
//	4   attributes (MS-FSCC 2.6)
//	8   creation time (MS-FSCC 2.1.1), 0 if none is stored
//	16  change time that was set
//	24  the last of the kernel's change times, in ns, for which that one stands
//
// The kernel lets nobody set its change time. One that a client sets is kept here
// for as long as nothing else has moved the kernel's.
//
// A value that is not this is taken for none: hidden and read-only marks are
// no reason to keep a disk from being opened.
type storedAttr struct {
	eaSize     uint16
	attributes Attributes
	created    fscc.Filetime
	changed    fscc.Filetime // 0: the kernel's counts
	until      int64
}

const (
	storedAttrSize    = 16
	storedAttrLong    = 32
	storedAttrVersion = 1
)

// settable are the attributes SetAttributes keeps.
const settable = Attributes(fscc.FILE_ATTRIBUTE_READONLY | fscc.FILE_ATTRIBUTE_HIDDEN | fscc.FILE_ATTRIBUTE_SYSTEM |
	fscc.FILE_ATTRIBUTE_ARCHIVE | fscc.FILE_ATTRIBUTE_TEMPORARY | fscc.FILE_ATTRIBUTE_SPARSE_FILE |
	fscc.FILE_ATTRIBUTE_OFFLINE | fscc.FILE_ATTRIBUTE_NOT_CONTENT_INDEXED)

func (a storedAttr) encode() []byte {
	b := make([]byte, storedAttrSize, storedAttrLong)
	b[0] = storedAttrVersion
	binary.LittleEndian.PutUint16(b[2:], a.eaSize)
	binary.LittleEndian.PutUint32(b[4:], uint32(a.attributes))
	binary.LittleEndian.PutUint64(b[8:], uint64(a.created))
	if a.changed != 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(a.changed))
		b = binary.LittleEndian.AppendUint64(b, uint64(a.until))
	}
	return b
}

func decodeStoredAttr(b []byte) (storedAttr, bool) {
	if len(b) != storedAttrSize && len(b) != storedAttrLong || binary.LittleEndian.Uint16(b) != storedAttrVersion {
		return storedAttr{}, false
	}
	a := storedAttr{
		eaSize:     binary.LittleEndian.Uint16(b[2:]),
		attributes: Attributes(binary.LittleEndian.Uint32(b[4:])),
		created:    fscc.Filetime(binary.LittleEndian.Uint64(b[8:])),
	}
	if len(b) == storedAttrLong {
		a.changed = fscc.Filetime(binary.LittleEndian.Uint64(b[16:]))
		a.until = int64(binary.LittleEndian.Uint64(b[24:]))
	}
	if a.attributes&^settable != 0 || a.created < 0 || a.changed < 0 || len(b) == storedAttrLong && a.changed == 0 {
		return storedAttr{}, false
	}
	return a, true
}

// procPath names what a descriptor refers to in a way that works for O_PATH
// descriptors too.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// readStoredAttr reads user.lunless.attr of the object at path, no symbolic
// link at its end followed unless follow is set. Zero if there is none.
func readStoredAttr(path string, follow bool) (storedAttr, error) {
	var b [storedAttrLong + 1]byte
	get := unix.Lgetxattr
	if follow {
		get = unix.Getxattr
	}
	n, err := get(path, xattrAttr, b[:])
	switch err {
	case nil:
		a, _ := decodeStoredAttr(b[:n])
		return a, nil
	case unix.ENODATA, unix.ERANGE, unix.EOPNOTSUPP:
		return storedAttr{}, nil
	}
	return storedAttr{}, err
}

func writeStoredAttr(fd int, a storedAttr) error {
	return unix.Setxattr(procPath(fd), xattrAttr, a.encode(), 0)
}

// maxXattr is the most the kernel stores in one extended attribute (XATTR_SIZE_MAX).
const maxXattr = 64 << 10

func readSD(fd int) ([]byte, error) { return readXattr(fd, xattrSD) }

// readXattr is the value of an extended attribute, nil if there is none.
func readXattr(fd int, name string) ([]byte, error) {
	path := procPath(fd)
	size := 1024
	for {
		b := make([]byte, size)
		n, err := unix.Getxattr(path, name, b)
		switch {
		case err == nil:
			return b[:n:n], nil
		case err == unix.ENODATA:
			return nil, nil
		case err == unix.ERANGE && size < maxXattr:
			size = maxXattr
		default:
			return nil, err
		}
	}
}

func writeSD(fd int, sd []byte) error {
	if len(sd) > maxXattr {
		return unix.E2BIG
	}
	return unix.Setxattr(procPath(fd), xattrSD, sd, 0)
}
