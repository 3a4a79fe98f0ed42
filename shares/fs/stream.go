package fs

import (
	"context"
	"strings"
	"unicode/utf8"

	"lunless/smbstore/fscc"
)

// Streamer is implemented by Files of stores that keep alternate data streams
// (MS-FSA 2.1.1.5), on files and on folders. What stands before another File
// implements it too, and gives ErrNotSupported where that one has none; Volume.Streams
// tells whether there are any. Names fold case and keep the case they are stored in; the
// unnamed stream of a file is the File itself.
type Streamer interface {
	// OpenStream opens a stream that exists: ErrNotExist, ErrBadName, ErrNameTooLong.
	OpenStream(ctx context.Context, name string, access Access) (Stream, error)
	// CreateStream makes one that exists under no case of its name: ErrExist,
	// ErrNoSpace also for more streams than an object may have.
	CreateStream(ctx context.Context, name string, opts StreamOptions) (Stream, error)
	// Streams lists the streams, without the unnamed one, sorted by name.
	Streams(ctx context.Context) ([]StreamInfo, error)
}

// Stream is an open alternate data stream. Data, sizes, the SPARSE_FILE attribute and ID are its
// own; Name, times, the other attributes, the security descriptor and the
// streams that a Streamer speaks of are those of the file or folder it belongs to, as
// are the ID and the links that Stat tells of. FS.Remove and FS.SyncParent take a Stream, FS.Rename
// and FS.Link do not (ErrInvalid). It keeps its data as long as it is open,
// whatever becomes of its name or of its file.
type Stream interface {
	File
	Streamer
	// Base is the file or folder that the stream belongs to, opened for metadata.
	// It is closed with the stream.
	Base() File
	// StreamName is the present name, without colons; ErrNotExist once removed.
	StreamName() (string, error)
	// RenameStream gives the stream another name within its file. With replace a
	// stream that has the name is replaced in one step, else it gives ErrExist.
	// Nothing happens where the names are the same but for case (MS-FSA 2.1.5.15.12.1).
	//
	// Without a name the data becomes that of the file itself, which loses its own: the
	// Stream is closed with that, but for what it says of its Base. That is a
	// copy, which a store may refuse for large ones (ErrNotSupported).
	RenameStream(ctx context.Context, newName string, replace bool) error
}

// StreamOptions are the properties of a stream that CreateStream makes.
type StreamOptions struct {
	Access         Access
	AllocationSize int64 // as in CreateOptions
}

// StreamInfo is what a listing says of a stream. Sizes in bytes.
type StreamInfo struct {
	Name           string
	Size           int64
	AllocationSize int64
}

// StreamOf is the Stream behind f, nil if there is none.
func StreamOf(f File) Stream {
	for {
		if s, ok := f.(Stream); ok {
			return s
		}
		w, ok := f.(Wrapper)
		if !ok {
			return nil
		}
		f = w.Unwrap()
	}
}

// CheckStreamName says whether name may be a stream's (MS-FSCC 2.1.5.3): ErrBadName
// for one that is empty, not well-formed or has one of '\', '/', ':' and NUL, ErrNameTooLong past
// 255 UTF-16 units.
func CheckStreamName(name string) error {
	switch {
	case name == "" || strings.ContainsAny(name, "\\/:\x00"):
		return ErrBadName
	case !utf8.ValidString(name) && !wellFormed(name):
		return ErrBadName
	case fscc.UTF16Len(name) > 2*maxStreamName:
		return ErrNameTooLong
	}
	return nil
}

const maxStreamName = 255 // UTF-16 units
