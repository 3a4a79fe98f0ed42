package shares

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// eaScan is where an open is in its list of extended attributes (MS-FSA 2.1.1.6,
// Open.NextEaEntry).
type eaScan struct {
	mu   sync.Mutex // guards next
	next int
}

// decodeEAs reads a FILE_FULL_EA_INFORMATION list of a client: a name that
// cannot be one is STATUS_INVALID_EA_NAME (MS-FSA 2.1.5.15.6), a list that is none
// STATUS_EA_LIST_INCONSISTENT (MS-SMB2 3.3.5.21.1).
func decodeEAs(b []byte) ([]fscc.EaEntry, error) {
	list, err := fscc.DecodeEas(b)
	switch {
	case errors.Is(err, fscc.ErrInvalid):
		err = fmt.Errorf("%w: %w", smb2.StatusInvalidEAName, err)
	case err != nil:
		err = fmt.Errorf("%w: %w", smb2.StatusEAListInconsistent, err)
	}
	return list, err
}

// eaError is the status of what the store says about extended attributes.
func eaError(err error) error {
	if errors.Is(err, fs.ErrNotSupported) {
		return fmt.Errorf("%w: %w", statusEAsNotSupported, err)
	}
	return err
}

// eaList is the extended attributes a CREATE brings (MS-SMB2 3.3.5.9.1).
func (c *creation) eaList() ([]fscc.EaEntry, error) {
	if len(c.ctxs.extendedAttributes) == 0 {
		return nil, nil
	}
	if c.req.CreateOptions&smb2.FileNoEAKnowledge != 0 {
		return nil, smb2.StatusAccessDenied // MS-SMB2 2.2.13
	}
	return decodeEAs(c.ctxs.extendedAttributes)
}

// withEAs gives a new file the request's extended attributes, and takes it back
// where that fails.
func (c *creation) withEAs(ctx context.Context, f fs.File) error {
	list, err := c.eaList()
	if err == nil && len(list) > 0 {
		err = eaError(fs.SetEAs(ctx, f, list))
	}
	if err != nil {
		err = errors.Join(err, c.r.tree.fs.Remove(ctx, f), f.Close())
	}
	return err
}

// replaceEAs makes the request's extended attributes those of a file that is
// overwritten (MS-FSA 2.1.5.1.2).
func (c *creation) replaceEAs(ctx context.Context, f fs.File) error {
	list, err := c.eaList()
	if err != nil {
		return err
	}
	old, err := fs.EAs(ctx, f)
	switch {
	case errors.Is(err, fs.ErrNotSupported) && len(list) == 0, err == nil && len(old)+len(list) == 0:
		return nil
	case err != nil:
		return eaError(err)
	}
	for i := range old {
		old[i].Value = nil
	}
	return eaError(fs.SetEAs(ctx, f, append(old, list...)))
}

// needsEAs refuses to open a file that cannot be understood without its
// extended attributes to those who do not know them (MS-FSA 2.1.5.1.2).
func (c *creation) needsEAs(ctx context.Context, f fs.File, info *fs.Info) error {
	if c.req.CreateOptions&smb2.FileNoEAKnowledge == 0 || c.name.stream != "" || info.EASize == 0 {
		return nil
	}
	list, err := fs.EAs(ctx, f)
	for i := range list {
		if list[i].Flags&fscc.FILE_NEED_EA != 0 {
			return smb2.StatusAccessDenied
		}
	}
	return err
}

// setEAs changes extended attributes (MS-FSA 2.1.5.15.6).
func (o *open) setEAs(ctx context.Context, b []byte) error {
	list, err := decodeEAs(b)
	if err != nil {
		return err
	}
	if err := fs.SetEAs(ctx, o.file, list); err != nil {
		return eaError(err)
	}
	if info, err := o.file.Stat(ctx); err == nil && !o.dir && info.Attributes&fscc.FILE_ATTRIBUTE_ARCHIVE == 0 {
		if err := o.file.SetAttributes(ctx, info.Attributes|fscc.FILE_ATTRIBUTE_ARCHIVE); err != nil {
			return err
		}
	}
	o.modified(ctx, smb2.NotifyChangeEA|smb2.NotifyChangeAttributes)
	return nil
}

// queryEAs answers with extended attributes (MS-SMB2 3.3.5.20.1, MS-FSA
// 2.1.5.12.12): those the client names, or those that follow the last ones it got.
func (r *request) queryEAs(ctx context.Context, req *smb2.QueryInfoRequest) error {
	o := r.open
	if o.access&smb2.FileReadEA == 0 {
		return smb2.StatusAccessDenied
	}
	names, err := fscc.DecodeGetEas(req.Input)
	if err != nil {
		return fmt.Errorf("%w: %w", smb2.StatusEAListInconsistent, err)
	}
	all, err := fs.EAs(ctx, o.file)
	if err != nil && !errors.Is(err, fs.ErrNotSupported) {
		return err
	}
	if len(names) > 0 {
		return r.respondEAs(req, namedEAs(all, names), nil)
	}
	o.eas.mu.Lock()
	defer o.eas.mu.Unlock()
	if req.Flags&smb2.QueryInfoRestartScan != 0 {
		o.eas.next = 0
	}
	if req.Flags&smb2.QueryInfoIndexSpecified != 0 {
		i := int64(req.AdditionalInformation) // from 1
		if i < 1 || i > int64(len(all)) {
			return smb2.StatusNonexistentEAEntry
		}
		o.eas.next = int(i - 1)
	}
	switch {
	case len(all) == 0:
		return smb2.StatusNoEAsOnFile
	case o.eas.next >= len(all):
		return smb2.StatusNoMoreEAs
	}
	return r.respondEAs(req, all[o.eas.next:], &o.eas.next)
}

// namedEAs are the extended attributes of those names; one that is not there has no value.
func namedEAs(all []fscc.EaEntry, names [][]byte) []fscc.EaEntry {
	list := make([]fscc.EaEntry, 0, len(names))
	for _, name := range names {
		e := fscc.EaEntry{Name: bytes.ToUpper(name)}
		for i := range all {
			if fs.SameEA(all[i].Name, name) {
				e = all[i]
			}
		}
		list = append(list, e)
	}
	return list
}

// respondEAs answers with as much of the list as fits; next, if not nil, counts what did.
func (r *request) respondEAs(req *smb2.QueryInfoRequest, list []fscc.EaEntry, next *int) error {
	size := 0
	for i := range list {
		size += 8 + len(list[i].Name) + 1 + len(list[i].Value) + 3
	}
	b := make([]byte, min(size, int(req.OutputBufferLength)))
	w := fscc.NewEaWriter(b)
	n := 0
	for n < len(list) && w.Add(&list[n]) {
		n++
		if req.Flags&smb2.QueryInfoReturnSingleEntry != 0 {
			break
		}
	}
	if n == 0 {
		return smb2.StatusBufferTooSmall
	}
	if next != nil {
		*next += n
	}
	m := &smb2.QueryInfoResponse{Output: b[:w.Len()]}
	if n < len(list) && req.Flags&smb2.QueryInfoReturnSingleEntry == 0 {
		return r.respondStatus(smb2.StatusBufferOverflow, m)
	}
	return r.respond(m)
}
