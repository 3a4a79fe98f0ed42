package shares

import (
	"context"

	"lunless/smbstore/smb2"
)

// handleChangeNotify says that changes are not watched, which clients take for
// what it is: they look again themselves (MS-SMB2 3.3.5.19).
func handleChangeNotify(_ context.Context, r *request) error {
	var req smb2.ChangeNotifyRequest
	if err := req.Decode(r.msg); err != nil {
		return err
	}
	if !r.open.dir {
		return smb2.StatusInvalidParameter
	}
	return smb2.StatusNotSupported
}
