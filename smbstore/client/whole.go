package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// wholeFile is how much of a file one ReadWhole reads: what one credit pays for.
const wholeFile = creditUnit

// ErrTooLarge: a file holds more than ReadWhole reads.
var ErrTooLarge = errors.New("the file is larger than one request reads")

// errNarrow: the server lets us hold too few credits for a compound.
var errNarrow = fmt.Errorf("compound: %w", ErrNotSupported)

// ReadWhole reads a small file, at most limit bytes and less than 64 KiB, with one
// compound of CREATE, READ and CLOSE (MS-SMB2 3.2.4.1.4): the server has closed it
// whatever becomes of this process after the request has left. A file that is kept
// open, if only by a process that was suspended, cannot be replaced by another.
//
// A larger file is ErrTooLarge; ErrNotSupported means that the server gives too few
// credits. Refusals are *StatusError.
func (t *Tree) ReadWhole(ctx context.Context, name string, limit int) ([]byte, error) {
	name = wirePath(name)
	for try := 0; ; try++ {
		l, err := t.link(ctx)
		if err != nil {
			return nil, err
		}
		b, err := t.readWhole(ctx, l, name, min(limit+1, wholeFile))
		var refused *StatusError
		switch {
		case err == nil && len(b) > min(limit, wholeFile-1):
			return nil, ErrTooLarge
		case errors.As(err, &refused) && sessionGone(refused.Status) && try < maxTries:
			l.s.end(err)
		case !isLost(err) || try >= maxTries:
			return b, err
		}
	}
}

func (t *Tree) readWhole(ctx context.Context, l *treeLink, name string, size int) ([]byte, error) {
	c, err := l.s.channel(ctx)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	messages := []message{
		&smb2.CreateRequest{
			ImpersonationLevel: smb2.ImpersonationImpersonation, DesiredAccess: smb2.FileReadData | smb2.FileReadAttributes,
			ShareAccess:       smb2.FileShareRead | smb2.FileShareWrite | smb2.FileShareDelete,
			CreateDisposition: smb2.FileOpen, CreateOptions: smb2.FileNonDirectoryFile, Name: name,
		},
		&smb2.ReadRequest{Padding: smb2.ReadResponseSize, Length: uint32(size), FileID: smb2.RelatedFileID},
		&smb2.CloseRequest{FileID: smb2.RelatedFileID},
	}
	list := t.compound(c, l, messages, smb2.CommandCreate, smb2.CommandRead, smb2.CommandClose)
	list[1].dst = b
	if err := c.sendCompound(ctx, list, messages); err != nil {
		return nil, err
	}
	return wholeAnswer(ctx, list, name, b)
}

// compound makes the calls of related requests.
func (t *Tree) compound(c *conn, l *treeLink, messages []message, commands ...smb2.Command) []*call {
	list := make([]*call, len(messages))
	for i, command := range commands {
		k := newCall(command)
		t.client.prepare(k, c, l, false)
		if i > 0 {
			k.hdr.Flags |= smb2.FlagRelatedOperations
		}
		list[i] = k
	}
	return list
}

// RenameWhole gives what lies at a path another name on the share, with one compound
// of CREATE, SET_INFO and CLOSE: once the server has it, it is done or refused
// whatever becomes of this process, and while it does not, nothing of it is. With
// replace an existing file of that name goes away. ErrNotSupported means that the
// server gives too few credits. Refusals are *StatusError; after ErrConnectionLost
// it may have been done.
func (t *Tree) RenameWhole(ctx context.Context, from, to string, replace bool) error {
	from, to = wirePath(from), wirePath(to)
	if to == "" || strings.ContainsRune(to, 0) {
		return &StatusError{Command: smb2.CommandSetInfo, Name: to, Status: smb2.StatusObjectNameInvalid}
	}
	for try := 0; ; try++ {
		l, err := t.link(ctx)
		if err != nil {
			return err
		}
		err = t.renameWhole(ctx, l, from, to, replace)
		var refused *StatusError
		if !errors.As(err, &refused) || !sessionGone(refused.Status) || try >= maxTries {
			return err
		}
		l.s.end(err)
	}
}

func (t *Tree) renameWhole(ctx context.Context, l *treeLink, from, to string, replace bool) error {
	c, err := l.s.channel(ctx)
	if err != nil {
		return err
	}
	info := fscc.RenameInfo{ReplaceIfExists: replace, Name: to}
	b := make([]byte, info.Size())
	info.Encode(b)
	messages := []message{
		&smb2.CreateRequest{
			ImpersonationLevel: smb2.ImpersonationImpersonation, DesiredAccess: smb2.Delete | smb2.FileReadAttributes,
			ShareAccess:       smb2.FileShareRead | smb2.FileShareWrite | smb2.FileShareDelete,
			CreateDisposition: smb2.FileOpen, CreateOptions: smb2.FileOpenReparsePoint, Name: from,
		},
		&smb2.SetInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileRenameInformation), FileID: smb2.RelatedFileID, Buffer: b},
		&smb2.CloseRequest{FileID: smb2.RelatedFileID},
	}
	list := t.compound(c, l, messages, smb2.CommandCreate, smb2.CommandSetInfo, smb2.CommandClose)
	for _, k := range list {
		k.patient = true
	}
	if err := c.sendCompound(ctx, list, messages); err != nil {
		return err
	}
	_, err = wholeAnswer(ctx, list, from, nil)
	return err
}

// wholeAnswer waits for the three responses.
func wholeAnswer(ctx context.Context, list []*call, name string, b []byte) ([]byte, error) {
	n := 0
	var failed error
	for _, k := range list {
		command := k.hdr.Command
		if err := k.wait(ctx); err != nil {
			if failed == nil {
				failed = err
			}
			continue // the others are waited for too: each belongs to somebody
		}
		status := k.resp.Status
		if command == smb2.CommandRead && status == smb2.StatusSuccess {
			n = k.n
		}
		k.free()
		if status != smb2.StatusSuccess && (command != smb2.CommandRead || status != smb2.StatusEndOfFile) && failed == nil {
			failed = &StatusError{Command: command, Name: name, Status: status}
		}
	}
	if failed != nil {
		return nil, failed
	}
	return b[:n], nil
}

// sendCompound sends requests in one frame, each of one credit, and every one after
// the first related to it (MS-SMB2 3.2.4.1.4). On an error the calls were freed.
func (c *conn) sendCompound(ctx context.Context, list []*call, messages []message) error {
	if err := c.reserveAll(ctx, list); err != nil {
		return err
	}
	var starts [8]int
	frame := make([]byte, wireHead, 1024)
	for i, k := range list {
		if i > 0 {
			frame = smb2.LinkCompound(frame, starts[i-1])
		}
		starts[i] = len(frame)
		frame = append(frame, make([]byte, messages[i].Size())...)
		k.hdr.Encode(frame[starts[i]:])
		messages[i].Encode(frame[starts[i]:])
	}
	if list[0].seal {
		frame = append(frame, make([]byte, smb2.SealTailroom)...)[:len(frame)]
		if err := c.sec.Load().sealer.Seal(frame[smb2.FrameHeaderSize:]); err != nil {
			c.kill(err)
			return nil
		}
		smb2.PutFrameHeader(frame, len(frame)-smb2.FrameHeaderSize)
		c.write(ctx, frame, nil)
		return nil
	}
	for i, k := range list {
		end := len(frame)
		if i+1 < len(list) {
			end = starts[i+1]
		}
		if k.sign {
			c.sec.Load().signer.SignParts(frame[starts[i]:end], nil)
		}
	}
	frame = frame[smb2.TransformHeaderSize:]
	smb2.PutFrameHeader(frame, len(frame)-smb2.FrameHeaderSize)
	c.write(ctx, frame, nil)
	return nil
}

// reserveAll reserves a credit for each call. One compound at a time does: two that
// wait for each other's credits would wait for ever. What has been reserved must be
// sent, so that ctx counts only until the first is.
func (c *conn) reserveAll(ctx context.Context, list []*call) error {
	c.compounds.Lock()
	defer c.compounds.Unlock()
	c.mu.Lock()
	narrow := c.credits.avail+c.credits.outstanding < len(list)
	c.mu.Unlock()
	if narrow {
		freeAll(list)
		return errNarrow
	}
	for i, k := range list {
		if err := c.reserve(ctx, k, 1); err != nil {
			freeAll(list[i+1:])
			for _, k := range list[:i] { // the connection has ended, and with it these
				_ = k.wait(context.WithoutCancel(ctx))
			}
			return err
		}
		ctx = context.WithoutCancel(ctx)
	}
	return nil
}

func freeAll(list []*call) {
	for _, k := range list {
		k.free()
	}
}
