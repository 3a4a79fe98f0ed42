package shares

import (
	"context"

	"lunless/smbstore/smb2"
)

var echoBody smb2.EchoResponse

// handleEcho answers ECHO, but disconnects a client without a session (MS-SMB2
// 3.3.5.17).
func handleEcho(_ context.Context, r *request) error {
	if r.session == nil && r.conn.countSessions() == 0 {
		return errDisconnect
	}
	return r.respond(&echoBody)
}
