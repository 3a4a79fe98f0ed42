package shares

import (
	"context"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// tree is a session's use of a share (MS-SMB2 3.3.1.9). It does not change.
type tree struct {
	id      uint32
	session *session
	share   *share
	fs      fs.FS           // nil on IPC$
	access  smb2.AccessMask // the most that any open of it may be granted
	ipc     bool
	encrypt bool // requests must arrive encrypted
}

// end closes what is open in the tree connect and forgets it. It reports false
// if that has been done already.
func (t *tree) end(ctx context.Context, why error) bool {
	s := t.session
	s.mu.Lock()
	there := s.trees[t.id] == t
	if there {
		delete(s.trees, t.id)
	}
	s.mu.Unlock()
	if !there {
		return false
	}
	s.cancelAsync(why, func(op *asyncOp) bool { return op.tree == t })
	s.closeOpens(ctx, t, why)
	t.share.disconnect(t)
	s.log.Info("tree disconnected", "user", s.user, "share", t.share.Name, "reason", why)
	return true
}
