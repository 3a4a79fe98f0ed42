package shares

import (
	"context"
	"errors"
	"fmt"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
)

// takeOverRights are what who takes over from an older instance of an application
// must have: GENERIC_READ (MS-SMB2 3.3.5.9.13).
const takeOverRights = fscc.FILE_READ_DATA | fscc.FILE_READ_EA | fscc.FILE_READ_ATTRIBUTES | fscc.READ_CONTROL | fscc.SYNCHRONIZE

// instance is the application instance that a CREATE is for.
func (x *durableContexts) instance() (a state.AppInstance) {
	if x.app == nil {
		return a
	}
	a.ID = x.app.ID
	if v := x.appVersion; v != nil {
		a.HasVersion, a.High, a.Low = true, v.High, v.Low
	}
	return a
}

// logInstance logs for which instance of an application a file was opened: of those
// of one application the last has it, and older ones cannot write any more.
func (c *creation) logInstance(o *open) {
	i := c.ctxs.instance()
	c.r.conn.log.Info("opened for an application instance", "user", c.r.session.user, "share", c.r.tree.share.Name, "file", c.path,
		"instance", fmt.Sprintf("%x", i.ID), "high", i.High, "version", i.Low, "access", uint32(o.access))
}

// takeOverGoing closes older instances' opens of a file that is to be deleted, which
// comes before the file is looked at (MS-SMB2 3.3.5.9.13): a *mustWait until they
// are closed, state.ErrForcedClosed where they stay, and pending, which is why the
// file cannot be opened, where there are none.
func (c *creation) takeOverGoing(ctx context.Context, f fs.File, pending error) error {
	if c.ctxs.app == nil || c.name.stream != "" || !errors.Is(pending, state.ErrDeletePending) {
		return pending
	}
	m, err := c.r.maximalAccess(ctx, f, c.name.path, 0, true)
	if err != nil {
		return err
	}
	q := state.OpenRequest{
		Open:     state.Open{Link: c.r.tree.share.link(c.path)},
		TakeOver: (m|c.backupRights())&takeOverRights == takeOverRights,
	}
	q.Open.Handle.AppInstance, q.Open.Handle.ClientGUID = c.ctxs.instance(), c.r.conn.neg.clientGUID
	_, err = commit(ctx, c.r.conn.srv.store, f.ID(), func(t state.Ticket) state.Change {
		q.Ticket = t
		return state.TakeOver(q)
	})
	if err != nil {
		return err
	}
	return pending
}
