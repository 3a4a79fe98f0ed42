package shares

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// listing is where an open of a folder is in its enumeration (MS-FSA 2.1.1.6,
// Open.QueryPattern and Open.QueryLastEntry).
type listing struct {
	mu      sync.Mutex    // guards all; held for the whole of a QUERY_DIRECTORY
	pattern *fscc.Pattern // nil: never listed
	literal bool          // the pattern is one name
	dots    int           // of "." and "..", how many have been listed
	reader  fs.DirReader
	next    *fs.DirEntry // read, and did not fit into the response before
	ended   bool
	short   bool // the class asked for has short names
	closed  bool
}

// close ends the enumeration for good.
func (l *listing) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.rewind()
}

func (l *listing) rewind() {
	if l.reader != nil {
		l.reader.Close()
	}
	l.reader, l.next, l.dots, l.ended = nil, nil, 0, false
}

// handleQueryDirectory lists a folder (MS-SMB2 3.3.5.18, MS-FSA 2.1.5.6.3).
func handleQueryDirectory(ctx context.Context, r *request) error {
	var req smb2.QueryDirectoryRequest
	if err := req.Decode(r.msg); err != nil {
		return err
	}
	o := r.open
	switch {
	case !o.dir && req.Flags&smb2.QueryDirectoryReopen != 0:
		return smb2.StatusNotSupported
	case !o.dir:
		return smb2.StatusInvalidParameter
	case o.access&smb2.FileListDirectory == 0:
		return smb2.StatusAccessDenied
	}
	class := fscc.InfoClass(req.FileInformationClass)
	if !fscc.IsDirectoryClass(class) {
		return badDirectoryClass(class)
	}
	room := min(int(req.OutputBufferLength), maxListing)
	w, err := fscc.NewDirWriter(class, r.reserve(smb2.OutputOffset, room))
	if err != nil {
		return err
	}
	l := &o.listing
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return smb2.StatusFileClosed
	}
	first, err := l.begin(&req)
	if err != nil {
		return err
	}
	l.short = class == fscc.FileBothDirectoryInformation || class == fscc.FileIdBothDirectoryInformation
	if err := l.fill(ctx, o, &w, req.Flags&smb2.QueryDirectoryReturnSingleEntry != 0); err != nil {
		return err
	}
	switch {
	case w.Count() > 0:
		return r.respondPayload(smb2.StatusSuccess, &outputBody{n: w.Len()}, w.Len())
	case l.next != nil:
		return smb2.StatusInfoLengthMismatch // the buffer does not hold one entry
	case first:
		return smb2.StatusNoSuchFile
	}
	return smb2.StatusNoMoreFiles
}

// maxListing bounds one response: more entries are another request's.
const maxListing = 1 << 20

// badDirectoryClass tells classes that do not list folders from those that
// could, and are not there (MS-SMB2 3.3.5.18).
func badDirectoryClass(class fscc.InfoClass) error {
	switch class {
	case fscc.FileId64ExtdDirectoryInformation, fscc.FileId64ExtdBothDirectoryInformation,
		fscc.FileIdAllExtdDirectoryInformation, fscc.FileIdAllExtdBothDirectoryInformation:
		return smb2.StatusNotSupported
	}
	return smb2.StatusInvalidInfoClass
}

// begin sets pattern and position as the request wants them. first says that the
// enumeration starts now.
func (l *listing) begin(req *smb2.QueryDirectoryRequest) (first bool, err error) {
	const again = smb2.QueryDirectoryRestartScans | smb2.QueryDirectoryReopen
	restart := req.Flags&again != 0
	if l.pattern != nil && !restart {
		return false, nil
	}
	if l.pattern == nil || req.FileName != "" {
		name := req.FileName
		if name == "" {
			name = "*"
		}
		p, err := fscc.CompilePattern(name)
		if err != nil {
			return false, fmt.Errorf("%w: %w", smb2.StatusObjectNameInvalid, err)
		}
		l.pattern, l.literal = p, !fscc.HasWildcards(name)
	}
	l.rewind()
	return true, nil
}

// fill adds entries to w until the folder ends, w is full, or one is enough.
func (l *listing) fill(ctx context.Context, o *open, w *fscc.DirWriter, single bool) error {
	for !l.ended && !(single && w.Count() > 0) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if l.next == nil {
			if err := l.advance(ctx, o); err != nil {
				return err
			}
			continue
		}
		if !w.Add(l.entry()) {
			return nil
		}
		l.next = nil
	}
	return nil
}

// advance reads the next entry that matches into l.next, or notes the end. One the
// user is not to see is passed over: l.next stays nil.
func (l *listing) advance(ctx context.Context, o *open) (err error) {
	for l.dots < 2 {
		name := "."
		if l.dots == 1 {
			name = ".."
		}
		l.dots++
		if l.pattern.Match(name) {
			l.next, err = o.dotEntry(ctx, name)
			return err
		}
	}
	if l.reader == nil {
		if l.reader, err = o.file.ReadDir(ctx); err != nil {
			return err
		}
	}
	match := l.matches
	if l.pattern.MatchesAll() {
		match = nil
	}
	e, err := l.reader.Next(match)
	if errors.Is(err, io.EOF) {
		l.ended = true
		return nil
	}
	if err != nil {
		return err
	}
	if shown, err := o.visible(ctx, e.Name); !shown {
		return err // fill goes on with the next
	}
	o.table.written.show(&e.Info)
	l.next = &e
	return nil
}

// matches says whether a name is asked for: by itself, or (MS-FSA 2.1.5.6.3) by
// its short name, if it is spelled out. Wildcards match names as they are shown
// alone: the short name of disk.vhdx ends in .VHD, and whoever removes *.vhd does
// not mean it.
func (l *listing) matches(name string) bool {
	if l.pattern.Match(name) {
		return true
	}
	if !l.literal {
		return false
	}
	short := shortNameOf(name)
	return short != "" && l.pattern.Match(short)
}

// dotEntry is the entry of the folder itself, or of the one above it, which for
// the share's root is the root.
func (o *open) dotEntry(ctx context.Context, name string) (*fs.DirEntry, error) {
	f := o.file
	if path, err := f.Name(); name == ".." && err == nil && path != "" {
		folder, _ := splitPath(path, '/')
		if parent, err := o.tree.fs.Open(ctx, folder, 0); err == nil {
			defer parent.Close()
			f = parent
		}
	}
	info, err := f.Stat(ctx)
	return &fs.DirEntry{Name: name, Info: info}, err
}

// entry is what the listing says of l.next.
func (l *listing) entry() *fscc.DirEntry {
	e := l.next
	n := networkOpenInfo(&e.Info)
	short := ""
	if l.short {
		short = shortNameOf(e.Name)
	}
	return &fscc.DirEntry{
		ShortName:      short,
		CreationTime:   n.CreationTime,
		LastAccessTime: n.LastAccessTime,
		LastWriteTime:  n.LastWriteTime,
		ChangeTime:     n.ChangeTime,
		EndOfFile:      n.EndOfFile,
		AllocationSize: n.AllocationSize,
		Attributes:     n.Attributes,
		EaSize:         e.Info.EASize,
		FileID:         e.Info.ID.Inode,
		Name:           e.Name,
	}
}

// shortNameOf is the short name of what has another one besides its own.
func shortNameOf(name string) string {
	if short := fs.ShortName(name); short != name && name != "." && name != ".." {
		return short
	}
	return ""
}

// outputBody is the fixed part of a response whose output lies behind it already
// (MS-SMB2 2.2.34).
type outputBody struct{ n int }

func (*outputBody) Size() int { return smb2.OutputOffset }

func (b *outputBody) Encode(msg []byte) {
	body := msg[smb2.HeaderSize:]
	binary.LittleEndian.PutUint16(body, 9) // StructureSize
	binary.LittleEndian.PutUint16(body[2:], smb2.OutputOffset)
	binary.LittleEndian.PutUint32(body[4:], uint32(b.n))
}
