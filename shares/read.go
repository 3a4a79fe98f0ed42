package shares

import (
	"context"
	"math"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// dataScratch holds the wire structs of READ and WRITE, so that neither allocates.
type dataScratch struct {
	read      smb2.ReadRequest
	readResp  smb2.ReadResponse
	write     smb2.WriteRequest
	writeResp smb2.WriteResponse
}

// handleRead answers READ (MS-SMB2 3.3.5.12): the data goes from the file
// straight to where the response is built. On the reader goroutine it gives what
// is in memory and leaves the rest to a worker.
func handleRead(ctx context.Context, r *request) error {
	q, o := &r.data.read, r.open
	if err := q.Decode(r.msg); err != nil {
		return err
	}
	switch {
	case q.Channel != smb2.ChannelNone && r.conn.neg.dialect >= smb2.Dialect300:
		return smb2.StatusInvalidParameter // RDMA, over TCP
	case o.pipe != nil:
		return readPipe(ctx, r, q)
	case o.dir:
		return smb2.StatusInvalidDeviceRequest
	case q.Offset > math.MaxInt64 || uint64(q.Length) > math.MaxInt64-q.Offset:
		return smb2.StatusInvalidParameter
	}
	if err := o.checkRead(q.Offset, uint64(q.Length)); err != nil {
		return err
	}
	p := r.reserve(smb2.ReadResponseSize, int(q.Length))
	n, err := readFile(r, o, p, int64(q.Offset))
	if err != nil {
		return err
	}
	if n == 0 && q.Length > 0 || n < int(q.MinimumCount) {
		return smb2.StatusEndOfFile
	}
	o.position.Store(int64(q.Offset) + int64(n))
	r.conn.srv.metrics.read.Add(float64(n))
	r.data.readResp = smb2.ReadResponse{DataLength: uint32(n)}
	return r.respondPayload(smb2.StatusSuccess, &r.data.readResp, n)
}

// readFile reads, and waits for the disk only where that holds nobody else up.
func readFile(r *request, o *open, p []byte, off int64) (int, error) {
	if r.mayWait {
		return o.file.ReadAt(p, off)
	}
	n, err := o.file.ReadAtCached(p, off)
	if err == fs.ErrWouldBlock {
		return 0, errWouldWait
	}
	return n, err
}
