package shares

import (
	"context"

	"lunless/smbstore/smb2"
)

// handleCancel gives up a request that has gone async, found by AsyncId or by
// MessageId (MS-SMB2 3.3.5.16). CANCEL itself is never answered. It runs on the
// lane, so that what it is meant for has gone async, or has been answered, by then.
func handleCancel(_ context.Context, r *request) error {
	h := &r.hdr
	r.conn.cancelAsync(errCancelled, func(op *asyncOp) bool {
		if h.Flags&smb2.FlagAsyncCommand != 0 {
			return op.id == h.AsyncID
		}
		return op.message == h.MessageID
	})
	return nil
}
