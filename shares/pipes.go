package shares

import (
	"context"
	"errors"
	"slices"
	"strings"

	"lunless/shares/accounts"
	"lunless/shares/services"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// openPipe opens a pipe of IPC$ (MS-SMB2 3.3.5.9, MS-FSA 2.1.5.2).
func (c *creation) openPipe(ctx context.Context) error {
	r := c.r
	if c.req.ImpersonationLevel == smb2.ImpersonationDelegate {
		return smb2.StatusBadImpersonationLevel
	}
	p, err := r.openPipe(ctx, c.req.Name)
	if err != nil {
		return err
	}
	id := r.conn.srv.ids.next()
	access := fscc.AccessMask(c.req.DesiredAccess)
	if access&fscc.MAXIMUM_ALLOWED != 0 {
		access |= fscc.GENERIC_READ | fscc.GENERIC_WRITE
	}
	o := &open{
		id: smb2.FileID{Persistent: id, Volatile: id}, tree: r.tree, session: r.session,
		handle: &handle{
			access: smb2.AccessMask(access.MapGeneric()&^fscc.MAXIMUM_ALLOWED) & r.tree.access, pipe: p, store: r.conn.srv.store, share: r.tree.share,
		},
	}
	if !r.session.addOpen(o) {
		return errors.Join(smb2.StatusNetworkNameDeleted, o.close(ctx, smb2.StatusNetworkNameDeleted))
	}
	r.open = o
	return r.respond(&smb2.CreateResponse{
		CreateAction: smb2.FileOpened, FileAttributes: fscc.FILE_ATTRIBUTE_NORMAL, FileID: o.id,
		AllocationSize: pipeBuffer,
	})
}

// pipeBuffer is what pipes claim to hold, bytes.
const pipeBuffer = 4096

// readPipe answers READ of a pipe (MS-SMB2 3.3.5.12).
func readPipe(_ context.Context, r *request, q *smb2.ReadRequest) error {
	o := r.open
	if o.access&smb2.FileReadData == 0 {
		return smb2.StatusAccessDenied
	}
	p := r.reserve(smb2.ReadResponseSize, int(q.Length))
	n, more, err := o.pipe.Read(p)
	if err != nil {
		return err
	}
	status := smb2.StatusSuccess
	if more {
		status = smb2.StatusBufferOverflow
	}
	r.data.readResp = smb2.ReadResponse{DataLength: uint32(n)}
	return r.respondPayload(status, &r.data.readResp, n)
}

// writePipe answers WRITE to a pipe (MS-SMB2 3.3.5.13).
func writePipe(_ context.Context, r *request, q *smb2.WriteRequest) error {
	o := r.open
	if o.access&smb2.FileWriteData == 0 {
		return smb2.StatusAccessDenied
	}
	n, err := o.pipe.Write(q.Data)
	if err != nil {
		return err
	}
	r.data.writeResp = smb2.WriteResponse{Count: uint32(n)}
	return r.respond(&r.data.writeResp)
}

// pipeControl answers the control codes of pipes (MS-SMB2 3.3.5.15.3, 3.3.5.15.4).
func pipeControl(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	o := r.open
	switch req.CtlCode {
	case smb2.FsctlPipePeek:
		return peekPipe(r, req)
	case smb2.FsctlPipeTransceive:
	default:
		return smb2.StatusInvalidDeviceRequest
	}
	const both = smb2.FileReadData | smb2.FileWriteData
	if o.access&both != both {
		return smb2.StatusAccessDenied
	}
	b, more, err := o.pipe.Transact(ctx, req.Input, int(req.MaxOutputResponse))
	if err != nil {
		return err
	}
	status := smb2.StatusSuccess
	if more {
		status = smb2.StatusBufferOverflow
	}
	return r.respondIoctl(status, req, b)
}

// peekPipe tells what waits in a pipe and leaves it there (MS-SMB2 3.3.5.15.4,
// MS-FSCC 2.3.46). A client may ask for nothing.
func peekPipe(r *request, req *smb2.IoctlRequest) error {
	o := r.open
	if o.access&smb2.FileReadData == 0 {
		return smb2.StatusAccessDenied
	}
	m := fscc.PipePeek{State: fscc.FILE_PIPE_CONNECTED_STATE}
	room := int(req.MaxOutputResponse)
	if room == 0 {
		return r.respondIoctl(smb2.StatusSuccess, req, nil)
	}
	if room -= m.Size(); room < 0 {
		return smb2.StatusInfoLengthMismatch
	}
	_, next, _, _, err := o.pipe.Peek(nil)
	if err != nil {
		return err
	}
	m.Data = make([]byte, min(room, next))
	n, next, messages, all, err := o.pipe.Peek(m.Data)
	if err != nil {
		return err
	}
	m.Data = m.Data[:n]
	m.ReadDataAvailable, m.Messages, m.MessageLength = uint32(all), uint32(messages), uint32(next)
	status := smb2.StatusSuccess
	if n < next {
		status = smb2.StatusBufferOverflow
	}
	return r.respondIoctl(status, req, encoded(&m))
}

// waitForPipe waits for a pipe to have a free instance, which each that exists
// always has (MS-SMB2 3.3.5.15.10).
func waitForPipe(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	if !r.tree.ipc {
		return smb2.StatusInvalidDeviceRequest
	}
	var in fscc.PipeWait
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusObjectNameNotFound
	}
	p, err := r.openPipe(ctx, in.Name)
	if err != nil {
		return errors.Join(smb2.StatusObjectNameNotFound, err)
	}
	if err := p.Close(); err != nil {
		return err
	}
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}

// queryPipeInfo answers QUERY_INFO on a pipe (MS-FSCC 2.4.37, 2.4.38, 2.4.47).
func (r *request) queryPipeInfo(req *smb2.QueryInfoRequest) error {
	class := fscc.InfoClass(req.FileInfoClass)
	switch {
	case req.InfoType != smb2.InfoFile:
		return smb2.StatusNotSupported
	case r.open.access&smb2.FileReadAttributes == 0 && needsReadAttributes(class):
		return smb2.StatusAccessDenied
	}
	_, unread := r.open.pipe.Unread()
	var m encoder
	switch class {
	case fscc.FileStandardInformation:
		m = &fscc.StandardInfo{AllocationSize: pipeBuffer, EndOfFile: int64(unread), Links: 1, DeletePending: true}
	case fscc.FileBasicInformation:
		m = &fscc.BasicInfo{Attributes: fscc.FILE_ATTRIBUTE_NORMAL}
	case fscc.FilePipeInformation:
		m = &fscc.PipeInfo{ReadMode: fscc.FILE_PIPE_MESSAGE_MODE}
	case fscc.FilePipeLocalInformation:
		m = &fscc.PipeLocalInfo{
			Type: fscc.FILE_PIPE_MESSAGE_TYPE, Configuration: fscc.FILE_PIPE_FULL_DUPLEX, MaximumInstances: ^uint32(0),
			CurrentInstances: 1, InboundQuota: pipeBuffer, OutboundQuota: pipeBuffer, WriteQuotaAvailable: pipeBuffer,
			ReadDataAvailable: uint32(unread),
			State:             fscc.FILE_PIPE_CONNECTED_STATE, End: fscc.FILE_PIPE_CLIENT_END,
		}
	default:
		return smb2.StatusNotSupported
	}
	a, err := whole(m)
	if err != nil {
		return err
	}
	return a.respond(r, int(req.OutputBufferLength))
}

// setPipeInfo accepts the mode pipes have anyway (MS-FSCC 2.4.37).
func (r *request) setPipeInfo(req *smb2.SetInfoRequest) error {
	if req.InfoType != smb2.InfoFile || fscc.InfoClass(req.FileInfoClass) != fscc.FilePipeInformation {
		return smb2.StatusNotSupported
	}
	if r.open.access&smb2.FileWriteAttributes == 0 {
		return smb2.StatusAccessDenied
	}
	var in fscc.PipeInfo
	if err := in.Decode(req.Buffer); err != nil {
		return err
	}
	if in.ReadMode != fscc.FILE_PIPE_MESSAGE_MODE || in.CompletionMode != fscc.FILE_PIPE_QUEUE_OPERATION {
		return smb2.StatusNotSupported
	}
	return r.respond(&smb2.SetInfoResponse{})
}

// openPipe opens one of the server's pipes for the user: services.ErrNoSuchPipe.
func (r *request) openPipe(ctx context.Context, name string) (*services.Pipe, error) {
	s := r.session
	return services.Open(ctx, name, services.Caller{
		User: s.user, Anonymous: s.anonymous, Admin: s.token.Has(fscc.SIDAdministrators),
	}, (*serviceBackend)(r.conn.srv))
}

// serviceBackend is what the RPC services know of the server.
type serviceBackend Server

func (b *serviceBackend) Server() services.Server {
	return services.Server{Name: b.cfg.Name, Group: "WORKGROUP", VersionMajor: 10}
}

// Accounts are those of the server.
func (b *serviceBackend) Accounts() *accounts.Store { return b.cfg.Accounts }

// Shares lists the shares by name.
func (b *serviceBackend) Shares(context.Context) ([]services.Share, error) {
	srv := (*Server)(b)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	list := make([]services.Share, 0, len(srv.shares))
	for _, s := range srv.shares {
		s.mu.Lock()
		uses := len(s.trees)
		s.mu.Unlock()
		list = append(list, services.Share{
			Name: s.Name, Comment: s.Comment, CurrentUses: uint32(uses), Encrypt: s.Encrypt, CA: s.ContinuouslyAvailable,
			Enumerate: s.AccessBased, SD: s.securityDescriptor(),
		})
	}
	slices.SortFunc(list, func(a, b services.Share) int { return strings.Compare(shareKey(a.Name), shareKey(b.Name)) })
	return list, nil
}
