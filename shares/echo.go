package shares

import (
	"context"

	"lunless/smbstore/smb2"
)

var echoBody smb2.EchoResponse

// handleEcho answers ECHO (MS-SMB2 3.3.5.17).
func handleEcho(_ context.Context, r *request) error { return r.respond(&echoBody) }
