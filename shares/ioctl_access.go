package shares

import (
	"context"

	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// beginWrite is what a control code does before it changes n bytes at off, as
// WRITE does: it has others give up what they cache, which may take as long as they
// like, and looks at rights and byte-range locks.
func (o *open) beginWrite(ctx context.Context, off, n uint64) error {
	for {
		err := o.breakOthers(ctx, state.BreakForWrite)
		w := waitOf(err)
		if w == nil && err != nil {
			return err
		}
		if w == nil {
			return o.checkWrite(off, n)
		}
		if onLane(ctx) {
			w.giveUp()
			return smb2.StatusInternalError // as for all that cannot go async (request.goAsync)
		}
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
}

// beginRead is beginWrite for bytes that are only read.
func (o *open) beginRead(_ context.Context, off, n uint64) error {
	return o.checkRead(off, n)
}

// onLaneKey marks the context of work that holds up its connection's lane, and
// must not wait for other clients.
type onLaneKey struct{}

func onLane(ctx context.Context) bool { return ctx.Value(onLaneKey{}) != nil }
