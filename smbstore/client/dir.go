package client

import (
	"context"
	"fmt"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// listRoom is the room for one answer with a folder's entries, bytes.
const listRoom = 64 << 10

// QueryDirectory gives a folder's entries that match a pattern ("*" for all) to
// visit, "." and ".." included, until it returns an error. If the connection is
// lost meanwhile, entries may come twice.
func (f *File) QueryDirectory(ctx context.Context, pattern string, visit func(*fscc.DirEntry) error) error {
	const class = fscc.FileIdBothDirectoryInformation
	flags := smb2.QueryDirectoryRestartScans
	for {
		h := f.cur.Load()
		body, status, err := f.do(ctx, request{command: smb2.CommandQueryDirectory, charge: 1,
			build: func(id smb2.FileID, _ int) message {
				return &smb2.QueryDirectoryRequest{FileInformationClass: uint8(class), Flags: flags, FileID: id,
					FileName: pattern, OutputBufferLength: listRoom}
			},
			accept: func(s smb2.Status) bool { return s == smb2.StatusNoMoreFiles || s == smb2.StatusNoSuchFile },
		})
		if err != nil {
			return err
		}
		if status != smb2.StatusSuccess {
			return nil
		}
		flags = 0
		if f.cur.Load() != h {
			flags = smb2.QueryDirectoryRestartScans
		}
		var m smb2.QueryDirectoryResponse
		if err := m.Decode(body); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		var stop error
		if err := fscc.ReadDirEntries(class, m.Output, func(e *fscc.DirEntry) error {
			stop = visit(e)
			return stop
		}); stop != nil {
			return stop
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
	}
}

// notifyRoom is the room for changes in one answer, bytes.
const notifyRoom = 64 << 10

// ChangeNotify waits for the next changes in a folder, or below it with tree, until
// ctx ends (MS-SMB2 3.2.4.13). No entries and no error mean that there were too
// many to tell. Changes between two calls are kept by the server, but for those
// around a lost connection.
func (f *File) ChangeNotify(ctx context.Context, filter smb2.CompletionFilter, tree bool) ([]fscc.NotifyEntry, error) {
	flags := smb2.ChangeNotifyFlags(0)
	if tree {
		flags = smb2.ChangeNotifyWatchTree
	}
	body, status, err := f.do(ctx, request{command: smb2.CommandChangeNotify, charge: 1,
		build: func(id smb2.FileID, _ int) message {
			return &smb2.ChangeNotifyRequest{Flags: flags, OutputBufferLength: notifyRoom, FileID: id, CompletionFilter: filter}
		},
		accept: func(s smb2.Status) bool { return s == smb2.StatusNotifyEnumDir },
	})
	if err != nil || status != smb2.StatusSuccess {
		return nil, err
	}
	var m smb2.ChangeNotifyResponse
	if err := m.Decode(body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	list, err := fscc.DecodeNotify(m.Output)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return list, nil
}
