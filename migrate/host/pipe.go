package host

import (
	"context"
	"io"
	"time"
)

// Pipe connects a console with an input and an output: until linger after the
// input's end, or until the console hangs up or ctx ends. It closes the console.
func Pipe(ctx context.Context, console io.ReadWriteCloser, in io.Reader, out io.Writer, linger time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { console.Close() }) //nolint:errcheck // it ends both ways
	defer stop()
	go func() {
		defer cancel()
		if _, err := io.Copy(console, in); err != nil {
			return
		}
		select {
		case <-time.After(linger):
		case <-ctx.Done():
		}
	}()
	if _, err := io.Copy(out, console); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
