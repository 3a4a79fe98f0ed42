package shares

import (
	"context"
	"errors"

	"lunless/smbstore/smb2"
)

// handleClose ends an open (MS-SMB2 3.3.5.10). What closing does to the file is
// done when the response is sent.
func handleClose(ctx context.Context, r *request) error {
	var req smb2.CloseRequest
	if err := req.Decode(r.msg); err != nil {
		return err
	}
	o := r.open
	if !r.session.removeOpen(o) {
		return smb2.StatusFileClosed
	}
	m := new(smb2.CloseResponse)
	if req.Flags&smb2.CloseFlagPostqueryAttrib != 0 && o.file != nil {
		o.settleClosing(ctx)
		if info, err := o.stat(ctx); err == nil {
			n := networkOpenInfo(&info)
			*m = smb2.CloseResponse{
				Flags:          smb2.CloseFlagPostqueryAttrib,
				CreationTime:   smb2.Filetime(n.CreationTime),
				LastAccessTime: smb2.Filetime(n.LastAccessTime),
				LastWriteTime:  smb2.Filetime(n.LastWriteTime),
				ChangeTime:     smb2.Filetime(n.ChangeTime),
				AllocationSize: uint64(n.AllocationSize),
				EndOfFile:      uint64(n.EndOfFile),
				FileAttributes: n.Attributes,
			}
		}
	}
	if err := o.close(ctx, errClosedByClient); err != nil {
		return err
	}
	return r.respond(m)
}

var errClosedByClient = errors.New("closed by the client")
