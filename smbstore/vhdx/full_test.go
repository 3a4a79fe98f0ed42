package vhdx

import (
	"errors"
	"testing"

	"lunless/smbstore/block"
)

// A flush of the file that fails is not tried again, whatever it says.
func TestFlushWithoutRoomFails(t *testing.T) {
	failing := false
	f := block.NewInterceptFile(block.NewMemFile(0), block.FailIf(func(op block.Op) bool {
		return failing && op.Kind == block.OpFlush
	}, block.ErrNoSpace))
	d, err := Create(f, CreateOptions{Size: 8 * mib, BlockSize: mib})
	must(t, err)
	must(t, d.WriteAt(ctx, []byte("x"), 0, 0))
	failing = true
	if err := d.Flush(ctx); !errors.Is(err, block.ErrFailed) {
		t.Errorf("a flush that failed: %v", err)
	}
	failing = false
	if err := d.Flush(ctx); !errors.Is(err, block.ErrFailed) {
		t.Errorf("the next one: %v", err)
	}
	d.Close() //nolint:errcheck // it has failed
}
