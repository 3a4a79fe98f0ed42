package shares

import (
	"context"

	"lunless/smbstore/smb2"
)

var echoBody smb2.EchoResponse

// handleEcho answers ECHO. MS-SMB2 3.3.5.17 would have a client without a session
// disconnected; clients send it after their last LOGOFF, so only one that has
// never authenticated is.
func handleEcho(_ context.Context, r *request) error {
	if r.session == nil && !r.conn.authed.Load() {
		return errDisconnect
	}
	return r.respond(&echoBody)
}
