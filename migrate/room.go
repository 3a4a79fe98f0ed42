package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"lunless/smbstore"
)

// What happens on a destination that is full. A journal is replaced by a new
// file, so there may be no room even for that.

// NoRoomError: the destination is full. It wraps smbstore.ErrNoSpace.
type NoRoomError struct {
	At      smbstore.Location // the destination's home
	Present int64             // bytes of the home that are there
	Missing int64             // bytes that are not; holes among them will need no room
	Err     error
}

func (e *NoRoomError) Error() string {
	need := fmt.Sprintf("%s of the home are there, up to %s more are needed", bytesText(e.Present), bytesText(e.Missing))
	switch {
	case e.Missing == 0:
		need = "the copy is there, its journal needs a little room"
	case e.Present == 0:
		need = fmt.Sprintf("up to %s are needed", bytesText(e.Missing))
	}
	return fmt.Sprintf("%v at %s: %s", smbstore.ErrNoSpace, e.At, need)
}

func (e *NoRoomError) Unwrap() error { return e.Err }

func bytesText(n int64) string {
	const unit = 1 << 10
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit && i < 4; i++ {
		v /= unit
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

// leadFull says of a full file system which it is, before anything else.
func (m *migration) leadFull(err error) error {
	if !errors.Is(err, smbstore.ErrNoSpace) {
		return err
	}
	var at smbstore.Location
	if full := (*smbstore.FullError)(nil); errors.As(smbstore.LeadFull(err), &full) {
		at = full.At
	}
	if !m.journal.Destination.Contains(at) {
		return smbstore.LeadFull(err)
	}
	e := &NoRoomError{At: m.journal.Destination, Err: err}
	e.Missing = m.journal.total()
	if m.journal.Kind == KindLiveStorage {
		return e // its disks are not in the journal, and nothing of it stays
	}
	for _, f := range m.journal.Files {
		e.Present += f.Copied
		e.Missing -= f.Copied
	}
	return e
}

// undoWithoutRoom begins to undo where the journal cannot be replaced: the copy
// goes, file by file, until it can be. A crash meanwhile leaves a journal that
// counts as copied what is gone. Resume sees that and copies it again, since the
// source has the VM before the first file goes.
func (m *migration) undoWithoutRoom(ctx context.Context, src smbstore.Record) error {
	// What could not be replaced may be another process's by now.
	if jl, err := readJournal(m.ends.dst); err != nil {
		return err
	} else if jl.PID != os.Getpid() && jl.running() {
		return fmt.Errorf("job %s, process %d: %w", jl.Job, jl.PID, ErrJobRunning)
	}
	if src.State == smbstore.Offered {
		if err := m.takeBack(ctx); err != nil {
			return err
		}
		failpoint("taken-back-without-room")
	}
	m.journal.Phase = Cancelling
	_, files, err := plan(ctx, m.ends.dst)
	if err != nil {
		return err
	}
	slices.SortFunc(files, func(a, b *FileState) int { return cmp.Compare(b.Size, a.Size) })
	for _, f := range files {
		if err := removeEither(m.ends.dst, f.Name, false); err != nil {
			return err
		}
		failpoint("made-room")
		if err := m.journal.write(m.ends.dst); !errors.Is(err, smbstore.ErrNoSpace) {
			return err
		}
	}
	return nil // somebody else takes all the room: the rest goes without a note
}

// giveBack is how much of the file being copied is given up for the journal, in bytes.
const giveBack = 4 * copyChunk

// writeWithoutRoom replaces the journal of a job that failed for want of room:
// the end of the file that was being copied makes room for it. Once nothing is copied
// any more there is none that may be cut: the VM may lie there already.
func (m *migration) writeWithoutRoom() error {
	if m.journal.Phase != Copying && m.journal.Phase != Verifying {
		return m.journal.write(m.ends.dst)
	}
	for _, f := range m.journal.Files {
		if f.Role != "" || f.Copied == f.Size {
			continue
		}
		dst, err := m.ends.dst.OpenFile(f.Name, smbstore.ReadWrite)
		if err != nil {
			return err
		}
		f.Copied -= min(f.Copied, giveBack)
		err = dst.Truncate(f.Copied)
		if err == nil {
			err = dst.Sync()
		}
		if err := errors.Join(err, dst.Close()); err != nil {
			return err
		}
		break
	}
	return m.journal.write(m.ends.dst)
}
