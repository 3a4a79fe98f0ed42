package shares

import (
	"context"
	"time"

	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

const (
	// maxResilience is the longest a client may ask for (MaxResiliencyTimeout).
	maxResilience = 300 * time.Second
	// defaultResilience is for clients that leave it to the server (MS-SMB2
	// 3.3.5.15.9, note 401).
	defaultResilience = 120 * time.Second
)

// requestResiliency makes an open one that outlives its connection, whatever it
// caches (MS-SMB2 3.3.5.15.9).
func requestResiliency(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	if r.conn.neg.dialect == smb2.Dialect202 {
		return smb2.StatusInvalidDeviceRequest
	}
	var q smb2.NetworkResiliencyRequest
	if len(req.Input) < q.Size() {
		return smb2.StatusInvalidParameter
	}
	if err := q.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	timeout := time.Duration(q.Timeout) * time.Millisecond
	if timeout > maxResilience {
		return smb2.StatusInvalidParameter
	}
	if timeout == 0 {
		timeout = defaultResilience
	}
	o := r.open
	if _, err := o.store.Update(ctx, o.fileID, state.SetResilient(o.stateID(), timeout, r.session.owner())); err != nil {
		return err
	}
	o.outlives.Store(true)
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}
