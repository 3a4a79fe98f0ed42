package shares

import (
	"context"

	"lunless/smbstore/smb2"
)

// handleOplockBreak answers acknowledgments of breaks (MS-SMB2 3.3.5.22). No
// oplock and no lease is ever granted, so that none is breaking.
func handleOplockBreak(_ context.Context, r *request) error {
	if smb2.IsLeaseBreak(r.msg) {
		var ack smb2.LeaseBreak
		if err := ack.Decode(r.msg); err != nil {
			return err
		}
		return smb2.StatusObjectNameNotFound
	}
	var ack smb2.OplockBreak
	if err := ack.Decode(r.msg); err != nil {
		return err
	}
	if r.session.findOpen(ack.FileID) == nil {
		return smb2.StatusFileClosed
	}
	return smb2.StatusInvalidDeviceState
}
