package shares

import (
	"context"
	"encoding/binary"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// encoder is a structure of fscc.
type encoder interface {
	Size() int
	Encode(dst []byte)
}

// handleQueryInfo answers questions about an open (MS-SMB2 3.3.5.20).
func handleQueryInfo(ctx context.Context, r *request) error {
	var req smb2.QueryInfoRequest
	if err := req.Decode(r.msg); err != nil {
		return err
	}
	if r.open.pipe != nil {
		return r.queryPipeInfo(&req)
	}
	var a answer
	var err error
	switch req.InfoType {
	case smb2.InfoFile:
		class := fscc.InfoClass(req.FileInfoClass)
		if class == fscc.FileFullEaInformation {
			return r.queryEAs(ctx, &req)
		}
		a, err = r.open.queryFile(ctx, class)
	case smb2.InfoFilesystem:
		a, err = r.queryFilesystem(ctx, fscc.FsInfoClass(req.FileInfoClass))
	case smb2.InfoSecurity:
		return r.querySecurity(ctx, &req)
	case smb2.InfoQuota:
		return smb2.StatusNotSupported
	default:
		return smb2.StatusInvalidParameter
	}
	if err != nil {
		return err
	}
	return a.respond(r, int(req.OutputBufferLength))
}

// answer is information of which fixed bytes must fit the client's buffer; what
// is behind them may be cut (MS-SMB2 3.3.5.20.1).
type answer struct {
	info  encoder
	fixed int
}

// whole is an answer that cannot be cut.
func whole(info encoder) (answer, error) { return answer{info: info, fixed: info.Size()}, nil }

func (a answer) respond(r *request, room int) error {
	if room < a.fixed {
		m := &smb2.ErrorResponse{}
		if r.conn.neg.dialect == smb2.Dialect311 { // one without data (MS-SMB2 3.3.5.20.1)
			m.Contexts = []smb2.ErrorContext{{}}
		}
		return r.respondStatus(smb2.StatusInfoLengthMismatch, m)
	}
	b := make([]byte, a.info.Size())
	a.info.Encode(b)
	if len(b) > room {
		return r.respondStatus(smb2.StatusBufferOverflow, &smb2.QueryInfoResponse{Output: b[:room]})
	}
	return r.respond(&smb2.QueryInfoResponse{Output: b})
}

// querySecurity answers with parts of the security descriptor (MS-SMB2
// 3.3.5.20.3). It is never cut: the client learns how large it is instead.
func (r *request) querySecurity(ctx context.Context, req *smb2.QueryInfoRequest) error {
	sd, err := r.open.querySecurity(ctx, fscc.SecurityInformation(req.AdditionalInformation))
	if err != nil {
		return err
	}
	if len(sd) <= int(req.OutputBufferLength) {
		return r.respond(&smb2.QueryInfoResponse{Output: sd})
	}
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(sd)))
	m := &smb2.ErrorResponse{Data: size}
	if r.conn.neg.dialect == smb2.Dialect311 {
		m = &smb2.ErrorResponse{Contexts: []smb2.ErrorContext{{Data: size}}}
	}
	return r.respondStatus(smb2.StatusBufferTooSmall, m)
}
