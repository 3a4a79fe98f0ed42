package client

import (
	"context"
	"fmt"
	"strings"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// decoder and encoder are the information classes of package fscc.
type decoder interface{ Decode([]byte) error }

type encoder interface {
	Size() int
	Encode([]byte)
}

// infoRoom is the room for the answer to a QUERY_INFO, bytes: one credit's worth.
const infoRoom = creditUnit

// Query asks for an information class and returns it as it came. A
// STATUS_BUFFER_OVERFLOW comes with what fits into max bytes and no error.
func (f *File) Query(ctx context.Context, kind smb2.InfoType, class uint8, more smb2.SecurityInformation, max int) ([]byte, error) {
	body, _, err := f.do(ctx, request{command: smb2.CommandQueryInfo, charge: 1,
		build: func(id smb2.FileID, _ int) message {
			return &smb2.QueryInfoRequest{InfoType: kind, FileInfoClass: class, OutputBufferLength: uint32(min(max, infoRoom)),
				AdditionalInformation: more, FileID: id}
		},
		accept: func(s smb2.Status) bool { return s == smb2.StatusBufferOverflow },
	})
	if err != nil {
		return nil, err
	}
	var m smb2.QueryInfoResponse
	if err := m.Decode(body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return m.Output, nil
}

// QueryInfo asks for a file information class (MS-FSCC 2.4).
func (f *File) QueryInfo(ctx context.Context, class fscc.InfoClass, into decoder) error {
	return f.queryInto(ctx, smb2.InfoFile, uint8(class), into)
}

// QueryFsInfo asks for a file system information class (MS-FSCC 2.5).
func (f *File) QueryFsInfo(ctx context.Context, class fscc.FsInfoClass, into decoder) error {
	return f.queryInto(ctx, smb2.InfoFilesystem, uint8(class), into)
}

func (f *File) queryInto(ctx context.Context, kind smb2.InfoType, class uint8, into decoder) error {
	out, err := f.Query(ctx, kind, class, 0, infoRoom)
	if err != nil {
		return err
	}
	if err := into.Decode(out); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// Set changes an information class.
func (f *File) Set(ctx context.Context, kind smb2.InfoType, class uint8, more smb2.SecurityInformation, data []byte) error {
	_, _, err := f.do(ctx, request{command: smb2.CommandSetInfo, charge: 1, patient: true,
		build: func(id smb2.FileID, _ int) message {
			return &smb2.SetInfoRequest{InfoType: kind, FileInfoClass: class, AdditionalInformation: more, FileID: id, Buffer: data}
		},
	})
	return err
}

// SetInfo changes a file information class (MS-FSCC 2.4).
func (f *File) SetInfo(ctx context.Context, class fscc.InfoClass, v encoder) error {
	b := make([]byte, v.Size())
	v.Encode(b)
	return f.Set(ctx, smb2.InfoFile, uint8(class), 0, b)
}

// Size is the end of the file, bytes.
func (f *File) Size(ctx context.Context) (int64, error) {
	i, err := f.Stat(ctx)
	return i.EndOfFile, err
}

// Stat is FileStandardInformation.
func (f *File) Stat(ctx context.Context) (i fscc.StandardInfo, err error) {
	err = f.QueryInfo(ctx, fscc.FileStandardInformation, &i)
	return i, err
}

// Basic is FileBasicInformation: times and attributes.
func (f *File) Basic(ctx context.Context) (i fscc.BasicInfo, err error) {
	err = f.QueryInfo(ctx, fscc.FileBasicInformation, &i)
	return i, err
}

// SetBasic sets those of times and attributes that are not 0.
func (f *File) SetBasic(ctx context.Context, i fscc.BasicInfo) error {
	return f.SetInfo(ctx, fscc.FileBasicInformation, &i)
}

// Truncate sets the end of the file.
func (f *File) Truncate(ctx context.Context, size int64) error {
	return f.SetInfo(ctx, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: size})
}

// SetAllocation reserves room, or gives it back.
func (f *File) SetAllocation(ctx context.Context, size int64) error {
	return f.SetInfo(ctx, fscc.FileAllocationInformation, &fscc.AllocationInfo{AllocationSize: size})
}

// Rename gives the file another name on its share; the open must have DELETE
// access. With replace an existing file of that name goes away. The File is found
// by its new name when it is reclaimed.
func (f *File) Rename(ctx context.Context, name string, replace bool) error {
	name = wirePath(name)
	if name == "" || strings.ContainsRune(name, 0) {
		return &StatusError{Command: smb2.CommandSetInfo, Name: name, Status: smb2.StatusObjectNameInvalid}
	}
	f.mu.Lock()
	f.renaming = name
	f.mu.Unlock()
	err := f.SetInfo(ctx, fscc.FileRenameInformation, &fscc.RenameInfo{ReplaceIfExists: replace, Name: name})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renaming = ""
	if err == nil {
		f.renamed = name
	}
	return err
}

// Delete marks the file for deletion when its last handle closes, or takes the
// mark away; the open must have DELETE access.
func (f *File) Delete(ctx context.Context, on bool) error {
	return f.SetInfo(ctx, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: on})
}
