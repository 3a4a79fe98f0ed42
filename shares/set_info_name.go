package shares

import (
	"context"
	"errors"
	"strings"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// renaming is a rename or a new link while it is worked on.
type renaming struct {
	r       *request
	target  string // for fs.FS
	stream  bool   // the name has a stream's in it, which it must not
	replace bool

	replaced bool // another file has the name
}

func (r *request) parseRenaming(in *fscc.RenameInfo) (*renaming, error) {
	if in.RootDirectory != 0 || strings.HasPrefix(in.Name, `\`) {
		return nil, smb2.StatusInvalidParameter
	}
	name, err := parsePath(in.Name)
	if err != nil {
		return nil, err
	}
	if name.path == "" || name.trailing || name.data || name.index {
		return nil, smb2.StatusObjectNameInvalid
	}
	return &renaming{r: r, target: name.path, stream: name.stream != "", replace: in.ReplaceIfExists}, nil
}

// alone keeps everybody from opening files by name until the function it returns
// is called: nobody gets a file whose name goes to another one, or changes, before
// the open counts.
func (n *renaming) alone() (done func()) {
	names := &n.r.tree.share.names
	names.Lock()
	return names.Unlock
}

// rename gives the file another name (MS-FSA 2.1.5.15.12).
func (r *request) rename(ctx context.Context, b []byte) error {
	var in fscc.RenameInfo
	if err := in.Decode(b); err != nil {
		return err
	}
	if strings.HasPrefix(in.Name, ":") {
		return r.renameStream(ctx, &in)
	}
	n, err := r.parseRenaming(&in)
	if err != nil {
		return err
	}
	o := r.open
	file := o.baseFile() // an open of a stream renames the stream's file
	defer n.alone()()
	source, err := r.deleting(ctx, o.file)
	switch {
	case errors.Is(err, state.ErrDeletePending):
		return smb2.StatusAccessDenied
	case err != nil:
		return err
	case source == "":
		return smb2.StatusAccessDenied
	case source == n.target && !n.stream:
		return nil
	}
	from := r.tree.share.link(source)
	if o.dir {
		if err := r.noOpensBelow(ctx, from); err != nil {
			return err
		}
	}
	if err := n.checkFolder(ctx); err != nil {
		return err
	}
	if err := n.checkTarget(ctx); err != nil {
		return err
	}
	if err := o.breakHandles(ctx, state.BreakForRename); err != nil {
		return err
	}
	if err := r.tree.fs.Rename(ctx, file, n.target, n.replace); err != nil {
		return err
	}
	// The name has changed, whether the client stays for that or not.
	ctx = context.WithoutCancel(ctx)
	var settled error
	if o.ca { // before the record, by whose name a client finds its handle again
		settled = r.tree.share.settleName(ctx, file)
	}
	name, err := file.Name()
	if err == nil {
		if !file.Dir() {
			r.conn.srv.tunnel.left(r.tree.share, source)
		}
		o.reportRename(ctx, source, name, n.replaced)
		_, err = o.store.Update(ctx, file.ID(), state.Relink(from, r.tree.share.link(name)))
	}
	return errors.Join(settled, err)
}

// link gives the file one more name (MS-FSA 2.1.5.15.7).
func (r *request) link(ctx context.Context, b []byte) error {
	var in fscc.RenameInfo
	if err := in.Decode(b); err != nil {
		return err
	}
	n, err := r.parseRenaming(&in)
	if err != nil {
		return err
	}
	o := r.open
	if o.stream != nil {
		return smb2.StatusInvalidParameter
	}
	if o.dir {
		return smb2.StatusFileIsADirectory
	}
	defer n.alone()()
	if _, err := r.deleting(ctx, o.file); errors.Is(err, state.ErrDeletePending) {
		return smb2.StatusAccessDenied
	} else if err != nil {
		return err
	}
	if err := n.checkFolder(ctx); err != nil {
		return err
	}
	if err := n.checkTarget(ctx); err != nil {
		return err
	}
	if err := o.breakHandles(ctx, state.BreakForRename); err != nil {
		return err
	}
	if err := r.tree.fs.Link(ctx, o.file, n.target, n.replace); err != nil {
		return err
	}
	o.reportLink(ctx, n.target, n.replaced)
	return nil
}

// checkFolder asks whether the user may put the name where it shall be.
func (n *renaming) checkFolder(ctx context.Context) error {
	folder, _ := splitPath(n.target, '/')
	f, err := n.r.tree.openFolder(ctx, folder)
	if err != nil {
		return err
	}
	defer f.Close()
	need := fscc.FILE_ADD_FILE
	if n.r.open.dir {
		need = fscc.FILE_ADD_SUBDIRECTORY
	}
	if err := n.r.mayAdd(ctx, f, need); err != nil {
		return err
	}
	// The folder is opened for that, not sharing DELETE (MS-FSA 2.1.5.15.12, note 185).
	_, err = n.r.conn.srv.store.Update(ctx, f.ID(), state.CanOpen(uint32(need), state.ShareRead|state.ShareWrite))
	if err == nil && n.stream {
		err = smb2.StatusObjectNameInvalid
	}
	return err
}

// checkTarget asks whether the name may be taken from what has it now: only with
// replace, only from a file, which nobody has open and the user may delete.
func (n *renaming) checkTarget(ctx context.Context) error {
	r := n.r
	f, err := r.tree.fs.Open(ctx, n.target, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if f.ID() == r.open.baseFile().ID() {
		return nil // another name of the same file, or another case of its own
	}
	if !n.replace {
		return smb2.StatusObjectNameCollision
	}
	n.replaced = true
	name, err := f.Name()
	if err != nil {
		return err
	}
	info, err := f.Stat(ctx)
	if err != nil {
		return err
	}
	if info.Dir || info.Attributes&fscc.FILE_ATTRIBUTE_READONLY != 0 {
		return smb2.StatusAccessDenied
	}
	_, err = commit(ctx, r.conn.srv.store, f.ID(), func(t state.Ticket) state.Change { return state.BreakForRename(0, t) })
	if err != nil {
		return err
	}
	if _, err := r.conn.srv.store.Update(ctx, f.ID(), state.Replaceable(r.tree.share.link(name))); err != nil {
		return err
	}
	m, err := r.maximalAccess(ctx, f, n.target, fscc.DELETE, false)
	if err == nil && m&fscc.DELETE == 0 {
		err = smb2.StatusAccessDenied
	}
	return err
}

// noOpensBelow refuses to move a folder while anything in it is open, by those who
// do not close it when they are asked to give up caching it (MS-FSA 2.1.5.15.12).
func (r *request) noOpensBelow(ctx context.Context, link string) error {
	below, err := r.opensBelow(ctx, link)
	if err != nil || len(below) == 0 {
		return err
	}
	store := r.conn.srv.store
	for _, id := range below {
		_, err := commit(ctx, store, id, func(t state.Ticket) state.Change { return state.BreakForRename(0, t) })
		if err != nil {
			return err
		}
	}
	if below, err = r.opensBelow(ctx, link); err == nil && len(below) > 0 {
		err = smb2.StatusAccessDenied
	}
	return err
}

// opensBelow are files in a folder that are open, not more than make sense to wait for.
func (r *request) opensBelow(ctx context.Context, link string) (list []fs.FileID, err error) {
	err = r.conn.srv.store.Walk(ctx, func(id fs.FileID, rec state.Record) bool {
		for i := range rec.Opens {
			if strings.HasPrefix(rec.Opens[i].Link, link+"/") {
				list = append(list, id)
				break
			}
		}
		return len(list) < 64
	})
	return list, err
}
