package shares

import (
	"context"
	"errors"

	"lunless/smbstore/smb2"
)

var errLogoff = errors.New("logged off")

// handleLogoff ends the session (MS-SMB2 3.3.5.6). The response is signed, or
// sealed, with the keys of the session that has just ended.
func handleLogoff(ctx context.Context, r *request) error {
	r.session.end(ctx, errLogoff)
	return r.respond(&smb2.LogoffResponse{})
}
