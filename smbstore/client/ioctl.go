package client

import (
	"context"
	"fmt"
	"time"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// Ioctl asks for a control code of the file (MS-SMB2 3.2.4.20), with room for max
// bytes of output. It may be sent twice if the connection is lost.
// STATUS_BUFFER_OVERFLOW comes with what there was room for and no error; full
// tells.
func (f *File) Ioctl(ctx context.Context, code smb2.CtlCode, in []byte, max int) (out []byte, full bool, err error) {
	out, status, err := f.ioctl(ctx, code, in, max, func(s smb2.Status) bool { return s == smb2.StatusBufferOverflow })
	return out, status == smb2.StatusBufferOverflow, err
}

func (f *File) ioctl(ctx context.Context, code smb2.CtlCode, in []byte, max int, accept func(smb2.Status) bool) ([]byte, smb2.Status, error) {
	s := f.tree.client.cur.Load()
	max = min(max, s.neg.maxTransact)
	body, status, err := f.do(ctx, request{command: smb2.CommandIoctl, charge: chargeFor(maxInt(max, len(in))), patient: true,
		build: func(id smb2.FileID, room int) message {
			return &smb2.IoctlRequest{CtlCode: code, FileID: id, Input: in, MaxOutputResponse: uint32(min(max, room)), Flags: smb2.IoctlIsFSCTL}
		},
		accept: accept,
	})
	if err != nil {
		return nil, status, err
	}
	var m smb2.IoctlResponse
	if err := m.Decode(body); err != nil {
		if status != smb2.StatusSuccess { // the body of an error
			return nil, status, &StatusError{Command: smb2.CommandIoctl, Name: f.name, Status: status}
		}
		return nil, status, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if len(m.Output) > max {
		return nil, status, protocolError("%v gives %d bytes, %d were asked for", code, len(m.Output), max)
	}
	return m.Output, status, nil
}

func maxInt(a, b int) int { return max(a, b) }

func encoded(v encoder) []byte {
	b := make([]byte, v.Size())
	v.Encode(b)
	return b
}

// Zero makes a range read as zeroes, giving back its room if the file is sparse
// (FSCTL_SET_ZERO_DATA). Beyond the end of the file it does nothing.
func (f *File) Zero(ctx context.Context, off, n int64) error {
	_, _, err := f.Ioctl(ctx, fscc.FSCTL_SET_ZERO_DATA, encoded(&fscc.ZeroData{Offset: off, Beyond: off + n}), 0)
	return err
}

// SetSparse lets the server leave holes where nothing is written (FSCTL_SET_SPARSE).
func (f *File) SetSparse(ctx context.Context, on bool) error {
	_, _, err := f.Ioctl(ctx, fscc.FSCTL_SET_SPARSE, encoded(&fscc.SetSparse{Sparse: on}), 0)
	return err
}

// Trim tells the server that the content of ranges is of no more use
// (FSCTL_FILE_LEVEL_TRIM): they read as zeroes or as before. It returns how many
// were taken.
func (f *File) Trim(ctx context.Context, ranges []fscc.ByteRange) (int, error) {
	out, _, err := f.Ioctl(ctx, fscc.FSCTL_FILE_LEVEL_TRIM, encoded(&fscc.Trim{Ranges: ranges}), 4)
	if err != nil {
		return 0, err
	}
	var r fscc.TrimReply
	if err := r.Decode(out); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return int(min(r.RangesProcessed, uint32(len(ranges)))), nil
}

// rangesRoom is the room for allocated ranges in one answer: 2,048 of them.
const rangesRoom = 32 << 10

// AllocatedRanges lists the ranges that hold data, in order; what lies between
// reads as zeroes (FSCTL_QUERY_ALLOCATED_RANGES). It tells how far it got:
// off+n, or less where there were too many for one answer.
func (f *File) AllocatedRanges(ctx context.Context, off, n int64) (list []fscc.ByteRange, upTo int64, err error) {
	out, full, err := f.Ioctl(ctx, fscc.FSCTL_QUERY_ALLOCATED_RANGES, encoded(&fscc.ByteRange{Offset: off, Length: n}), rangesRoom)
	if err != nil {
		return nil, 0, err
	}
	raw, err := fscc.DecodeRanges(out)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	at, end := off, off+n
	for _, r := range raw {
		lo, hi := max(r.Offset, at), min(r.Offset+r.Length, end)
		if lo >= hi {
			continue
		}
		if k := len(list) - 1; k >= 0 && list[k].Offset+list[k].Length == lo {
			list[k].Length += hi - lo
		} else {
			list = append(list, fscc.ByteRange{Offset: lo, Length: hi - lo})
		}
		at = hi
	}
	if full && at > off {
		return list, at, nil
	}
	return list, end, nil
}

// RequestResiliency asks the server to keep the handle for a time if the
// connection is lost (FSCTL_LMR_REQUEST_RESILIENCY; MS-SMB2 3.2.4.20.8): what SMB
// 2.1 has in place of persistent handles.
func (f *File) RequestResiliency(ctx context.Context, timeout time.Duration) error {
	_, _, err := f.Ioctl(ctx, smb2.FsctlLMRRequestResiliency, encoded(&smb2.NetworkResiliencyRequest{Timeout: uint32(timeout.Milliseconds())}), 0)
	if err != nil {
		return err
	}
	before := f.durability()
	f.mu.Lock()
	f.grant.Resilient, f.grant.Timeout = true, timeout
	f.mu.Unlock()
	if before == NotDurable {
		f.tree.client.durables.Add(1)
	}
	return nil
}
