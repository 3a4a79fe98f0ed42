package shares

import (
	"context"
	"testing"

	"lunless/smbstore/smb2"
)

// TestSuspendInCompound lets a command in the middle of a compound wait, as a
// CREATE does for a lease's break, which the client acknowledges on the same
// connection: the interim response leaves with those before it, the lane goes on,
// and the rest of the compound is answered after it, in one frame (MS-SMB2
// 3.3.5.2.7.2).
func TestSuspendInCompound(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	flush := &commands[smb2.CommandFlush].handle
	original := *flush
	woken := make(chan struct{})
	*flush = func(_ context.Context, r *request) error {
		return r.suspend(func(ctx context.Context) error {
			select {
			case <-woken:
				return r.respond(&smb2.FlushResponse{})
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	t.Cleanup(func() { *flush = original })

	all := smb2.RelatedFileID
	frame := c.compound([]step{
		{smb2.CommandCreate, createRequest("f"), false, 0},
		{smb2.CommandFlush, &smb2.FlushRequest{FileID: all}, true, 0},
		{smb2.CommandFlush, &smb2.FlushRequest{FileID: all}, true, 0},
		{smb2.CommandClose, &smb2.CloseRequest{FileID: all}, true, 0},
	})
	want := func(statuses ...smb2.Status) []response {
		t.Helper()
		list := c.receive()
		if len(list) != len(statuses) {
			t.Fatalf("%d responses, want %d", len(list), len(statuses))
		}
		for i, r := range list {
			wantStatus(t, r, statuses[i])
			if r.hdr.Flags&smb2.FlagSigned == 0 && r.hdr.Status != smb2.StatusPending {
				t.Errorf("response %d is not signed", i)
			}
			if related := r.hdr.Flags&smb2.FlagRelatedOperations != 0; related != (i > 0) {
				t.Errorf("response %d: flags %#x", i, uint32(r.hdr.Flags))
			}
		}
		return list
	}
	c.send(frame)
	first := want(smb2.StatusSuccess, smb2.StatusPending)
	c.create("the lane goes on")
	woken <- struct{}{}
	second := want(smb2.StatusSuccess, smb2.StatusPending)
	if second[0].hdr.AsyncID != first[1].hdr.AsyncID || second[0].hdr.MessageID != first[1].hdr.MessageID {
		t.Errorf("final response %+v of interim %+v", second[0].hdr, first[1].hdr)
	}
	c.create("and on")
	woken <- struct{}{}
	want(smb2.StatusSuccess, smb2.StatusSuccess)

	// CANCEL ends the wait; a lost connection ends it too.
	c.send(c.compound([]step{
		{smb2.CommandCreate, createRequest("f"), false, 0},
		{smb2.CommandFlush, &smb2.FlushRequest{FileID: all}, true, 0},
		{smb2.CommandClose, &smb2.CloseRequest{FileID: all}, true, 0},
	}))
	list := want(smb2.StatusSuccess, smb2.StatusPending)
	h := smb2.Header{Command: smb2.CommandCancel, SessionID: c.session, Flags: smb2.FlagAsyncCommand, AsyncID: list[1].hdr.AsyncID}
	msg := make([]byte, (&smb2.CancelRequest{}).Size())
	h.Encode(msg)
	(&smb2.CancelRequest{}).Encode(msg)
	c.send(msg)
	want(smb2.StatusCancelled, smb2.StatusSuccess)

	c.send(c.compound([]step{
		{smb2.CommandCreate, createRequest("f"), false, 0},
		{smb2.CommandFlush, &smb2.FlushRequest{FileID: all}, true, 0},
		{smb2.CommandClose, &smb2.CloseRequest{FileID: all}, true, 0},
	}))
	want(smb2.StatusSuccess, smb2.StatusPending)
	c.nc.Close()
	for srv.opens.Load() != 0 {
		sleepBriefly()
	}
}
