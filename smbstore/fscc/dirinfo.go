package fscc

import "fmt"

// DirEntry is what the directory information classes carry of one name; each
// class takes the fields it has (MS-FSCC 2.4.8 and others).
type DirEntry struct {
	FileIndex      uint32
	CreationTime   Filetime
	LastAccessTime Filetime
	LastWriteTime  Filetime
	ChangeTime     Filetime
	EndOfFile      int64
	AllocationSize int64
	Attributes     uint32
	EaSize         uint32 // the reparse tag instead, in classes without ReparseTag, where Attributes has REPARSE_POINT
	ReparseTag     uint32 // FileIdExtdDirectoryInformation
	FileID         uint64
	ShortName      string // at most 12 characters
	Name           string
}

// dirLayout says which parts follow the fixed part of an entry, in this order.
type dirLayout struct {
	fixed     int // bytes before the name
	times     bool
	eaSize    bool
	reserved4 bool // 4 bytes between EaSize and FileId
	shortName bool
	reserved2 bool // 2 bytes between ShortName and FileId
	fileID    int  // 0, 8 or 16 bytes
	tag       bool
}

func layoutOf(class InfoClass) (dirLayout, bool) {
	switch class {
	case FileDirectoryInformation:
		return dirLayout{fixed: 64, times: true}, true
	case FileFullDirectoryInformation:
		return dirLayout{fixed: 68, times: true, eaSize: true}, true
	case FileBothDirectoryInformation:
		return dirLayout{fixed: 94, times: true, eaSize: true, shortName: true}, true
	case FileIdBothDirectoryInformation:
		return dirLayout{fixed: 104, times: true, eaSize: true, shortName: true, reserved2: true, fileID: 8}, true
	case FileIdFullDirectoryInformation:
		return dirLayout{fixed: 80, times: true, eaSize: true, reserved4: true, fileID: 8}, true
	case FileIdExtdDirectoryInformation:
		return dirLayout{fixed: 88, times: true, eaSize: true, tag: true, fileID: 16}, true
	case FileNamesInformation:
		return dirLayout{fixed: 12}, true
	}
	return dirLayout{}, false
}

// IsDirectoryClass reports whether DirWriter and ReadDirEntries know class.
func IsDirectoryClass(class InfoClass) bool {
	_, ok := layoutOf(class)
	return ok
}

// shortNameSize is the room for a short name, in bytes of UTF-16.
const shortNameSize = 24

// DirWriter fills a buffer with directory entries of one class, each aligned to
// 8 bytes. It allocates nothing. Not for concurrent use.
type DirWriter struct {
	layout dirLayout
	chain  chain
	count  int
}

// NewDirWriter returns a DirWriter over buf, of which it never writes more.
// ErrInvalid if class is no directory class.
func NewDirWriter(class InfoClass, buf []byte) (DirWriter, error) {
	l, ok := layoutOf(class)
	if !ok {
		return DirWriter{}, fmt.Errorf("fscc: information class %d lists no directory: %w", class, ErrInvalid)
	}
	return DirWriter{layout: l, chain: chain{buf: buf, align: 8}}, nil
}

// Add appends e and reports whether it fitted. One that did not leaves the
// buffer as it was.
func (d *DirWriter) Add(e *DirEntry) bool {
	n := UTF16Len(e.Name)
	b := d.chain.next(d.layout.fixed + n)
	if b == nil {
		return false
	}
	w := writer{b: b, off: 4}
	w.u32(e.FileIndex)
	if d.layout.times {
		w.filetime(e.CreationTime)
		w.filetime(e.LastAccessTime)
		w.filetime(e.LastWriteTime)
		w.filetime(e.ChangeTime)
		w.i64(e.EndOfFile)
		w.i64(e.AllocationSize)
		w.u32(e.Attributes)
	}
	w.u32(uint32(n))
	d.layout.put(&w, e)
	w.name(e.Name)
	d.count++
	return true
}

func (l *dirLayout) put(w *writer, e *DirEntry) {
	if l.eaSize {
		w.u32(e.EaSize)
	}
	if l.tag {
		w.u32(e.ReparseTag)
	}
	if l.reserved4 {
		w.zero(4)
	}
	if l.shortName {
		n := UTF16Len(e.ShortName)
		if n > shortNameSize {
			n = 0
		}
		w.u8(uint8(n))
		w.u8(0)
		if n > 0 {
			w.name(e.ShortName)
		}
		w.zero(shortNameSize - n)
	}
	if l.reserved2 {
		w.zero(2)
	}
	if l.fileID > 0 {
		w.u64(e.FileID)
		w.zero(l.fileID - 8)
	}
}

// Len is the bytes written.
func (d *DirWriter) Len() int { return d.chain.end }

// Count is the entries written.
func (d *DirWriter) Count() int { return d.count }

// ReadDirEntries calls visit with each entry of a listing, in order; it stops
// at the first error, its own or visit's. An empty buffer has no entries.
func ReadDirEntries(class InfoClass, b []byte, visit func(e *DirEntry) error) error {
	l, ok := layoutOf(class)
	if !ok {
		return fmt.Errorf("fscc: information class %d lists no directory: %w", class, ErrInvalid)
	}
	if len(b) == 0 {
		return nil
	}
	var e DirEntry
	err := eachEntry(b, l.fixed, 8, func(p []byte) error {
		r := reader{b: p, off: 4}
		l.get(&r, &e)
		if r.err != nil {
			return r.err
		}
		return visit(&e)
	})
	if err != nil {
		return fmt.Errorf("fscc: directory listing of class %d: %w", class, err)
	}
	return nil
}

func (l *dirLayout) get(r *reader, e *DirEntry) {
	*e = DirEntry{FileIndex: r.u32()}
	if l.times {
		e.CreationTime = r.filetime()
		e.LastAccessTime = r.filetime()
		e.LastWriteTime = r.filetime()
		e.ChangeTime = r.filetime()
		e.EndOfFile = r.size()
		e.AllocationSize = r.size()
		e.Attributes = r.u32()
	}
	n := r.u32()
	if l.eaSize {
		e.EaSize = r.u32()
	}
	if l.tag {
		e.ReparseTag = r.u32()
	}
	if l.reserved4 {
		r.skip(4)
	}
	if l.shortName {
		sn := r.u8()
		r.skip(1)
		r.check(sn%2 == 0 && sn <= shortNameSize)
		if p := r.take(shortNameSize); p != nil && r.err == nil {
			e.ShortName = DecodeUTF16(p[:sn])
		}
	}
	if l.reserved2 {
		r.skip(2)
	}
	if l.fileID > 0 {
		e.FileID = r.u64()
		r.skip(l.fileID - 8)
	}
	e.Name = r.name(n)
}
