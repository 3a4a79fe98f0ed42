package shares

import (
	"context"
	"encoding/binary"
	"math"

	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// maxDataOffset is how far into a WRITE its data may begin (MS-SMB2 3.3.5.13).
const maxDataOffset = 0x100

// handleWrite answers WRITE (MS-SMB2 3.3.5.13): the data goes to the file from
// the buffer it was received in.
func handleWrite(ctx context.Context, r *request) error {
	q, o := &r.data.write, r.open
	if err := q.Decode(r.msg); err != nil {
		return err
	}
	switch {
	case q.Channel != smb2.ChannelNone && r.conn.neg.dialect >= smb2.Dialect300,
		binary.LittleEndian.Uint16(r.msg[smb2.HeaderSize+2:]) > maxDataOffset:
		return smb2.StatusInvalidParameter
	case o.pipe != nil:
		return writePipe(ctx, r, q)
	case o.dir:
		return smb2.StatusInvalidDeviceRequest
	case q.Offset > math.MaxInt64 || uint64(q.Length) > math.MaxInt64-q.Offset:
		return smb2.StatusInvalidParameter
	}
	through, err := writeThrough(r, q)
	if err != nil {
		return err
	}
	others := o.token.MustBreak(o.stateID())
	if (through || others) && !r.mayWait {
		return errWouldWait
	}
	if others {
		return r.waiting(ctx, func(ctx context.Context, _ bool) error {
			if err := o.breakOthers(ctx, state.BreakForWrite); err != nil {
				return err
			}
			return r.write(ctx, q, through)
		}, giveUp)
	}
	return r.write(ctx, q, through)
}

// write puts the data of a WRITE into the file, when nobody else caches it.
func (r *request) write(ctx context.Context, q *smb2.WriteRequest, through bool) error {
	o := r.open
	if err := o.checkWrite(q.Offset, uint64(q.Length)); err != nil {
		return err
	}
	if len(q.Data) > 0 {
		o.writeTime.write()
		if _, err := o.file.WriteAt(q.Data, int64(q.Offset)); err != nil {
			return err
		}
		o.wrote(ctx, int64(q.Offset), int64(len(q.Data)))
	}
	if through {
		if err := o.flushWritten(ctx); err != nil {
			return err
		}
	}
	o.position.Store(int64(q.Offset) + int64(q.Length))
	r.conn.srv.metrics.written.Add(float64(len(q.Data)))
	r.data.writeResp = smb2.WriteResponse{Count: q.Length}
	return r.respond(&r.data.writeResp)
}

// writeThrough says whether a WRITE must be on stable storage before it is
// answered. The flag asks for that, and is an error on an open that caches.
func writeThrough(r *request, q *smb2.WriteRequest) (bool, error) {
	d := r.conn.neg.dialect
	if q.Flags&smb2.WriteFlagWriteThrough == 0 || d == smb2.Dialect202 {
		return r.open.writeThrough(), nil
	}
	unbuffered := d >= smb2.Dialect302 && q.Flags&smb2.WriteFlagWriteUnbuffered != 0
	if !unbuffered && r.open.options&smb2.FileNoIntermediateBuffering == 0 {
		return false, smb2.StatusInvalidParameter
	}
	return true, nil
}
