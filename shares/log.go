package shares

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
)

// nameError is a failure on a name that is not open.
type nameError struct {
	name string
	error
}

func (e *nameError) Unwrap() error { return e.error }

// logFailure logs a request that was answered with an error.
func (c *conn) logFailure(r *request, err error) {
	if !c.log.Enabled(c.ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{
		slog.String("command", r.hdr.Command.String()),
		slog.String("status", r.status.String()),
		slog.Uint64("message", r.hdr.MessageID),
	}
	if r.session != nil {
		attrs = append(attrs, slog.String("user", r.session.user))
	}
	if r.tree != nil {
		attrs = append(attrs, slog.String("share", r.tree.share.Name))
	}
	if o := r.open; o != nil && o.file != nil {
		name, nameErr := o.file.Name()
		if nameErr != nil {
			name = "(removed)"
		}
		attrs = append(attrs, slog.String("file", name))
	} else if ne := (*nameError)(nil); errors.As(err, &ne) {
		attrs = append(attrs, slog.String("file", ne.name))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	c.log.LogAttrs(context.Background(), slog.LevelDebug, "request failed", attrs...)
}

// logEnd logs the end of a connection: at warn if the client broke the protocol.
func (c *conn) logEnd(cause error) {
	level := slog.LevelInfo
	var fatal fatalError
	switch {
	case errors.As(cause, &fatal):
		level = slog.LevelWarn
	case errors.Is(cause, io.EOF), errors.Is(cause, net.ErrClosed):
		cause = errors.New("closed by the client")
	}
	c.log.Log(context.Background(), level, "disconnected", "reason", cause)
}
