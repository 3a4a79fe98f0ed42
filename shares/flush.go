package shares

import (
	"context"

	"lunless/smbstore/smb2"
)

// handleFlush puts a file on stable storage before it answers (MS-SMB2 3.3.5.11).
// On a folder FILE_ADD_FILE and FILE_ADD_SUBDIRECTORY are the bits it needs: the
// same as FILE_WRITE_DATA and FILE_APPEND_DATA.
func handleFlush(ctx context.Context, r *request) error {
	o := r.open
	if o.pipe == nil {
		if o.access&(smb2.FileWriteData|smb2.FileAppendData) == 0 {
			return smb2.StatusAccessDenied
		}
		if err := o.flush(ctx); err != nil {
			return err
		}
	}
	return r.respond(&smb2.FlushResponse{})
}
