package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"lunless/smbstore"
)

// A job's journal names the process that is at it. Two processes that take up a cut job
// could both find the dead one there, and each write its own name. So whoever takes a
// job up first makes a file whose name says which process it is, and looks for others'
// then. Each makes its own before it looks: at most both give way, never does neither.
// The file has no content, and needs no room; one that a dead process of this host left
// is removed by whoever finds it, and can be taken for nobody else's. It goes when the
// journal has the process's name.

// claimMark begins the names of such files: garbage, for whoever finds them else
// (smbstore.IsTemp).
const claimMark = ".lunless-tmp-job-"

// claimWait bounds how long another's claim is waited for: it takes a few round trips.
const claimWait = 2 * time.Second

// claimName is the name of this process's claims.
func claimName() string {
	return claimMark + strings.ReplaceAll(smbstore.Process(os.Getpid()), "/", "_")
}

// claimant is the process of this host whose claim a file is, if that still runs: else 0.
func claimant(name string) (pid int) {
	process, is := strings.CutPrefix(name, claimMark)
	if !is {
		return 0
	}
	process = strings.ReplaceAll(process, "_", "/")
	pid, err := strconv.Atoi(process[strings.LastIndexByte(process, '/')+1:])
	if err != nil || pid <= 0 || smbstore.Process(pid) != process {
		return 0
	}
	return pid
}

// claimAt claims the job in a destination's home for this process, against all others of
// this host. The journal is to be read after it. Errors: ErrJobRunning, ErrNoJob.
func claimAt(ctx context.Context, dst smbstore.Store) (release func() error, err error) {
	name := claimName()
	release = func() error {
		if err := dst.Remove(name); err != nil && !errors.Is(err, smbstore.ErrNotExist) {
			return err
		}
		return nil
	}
	for until := time.Now().Add(claimWait); ; {
		err := writeClaim(dst, name)
		other := 0
		if err == nil {
			failpoint("job-claimed")
			if other, err = rival(dst, name); err == nil && other == 0 {
				return release, nil
			}
		}
		if errors.Is(err, smbstore.ErrNotExist) {
			err = fmt.Errorf("%s: %w", dst.Location(), ErrNoJob) // it was undone meanwhile
		}
		if rerr := release(); err == nil {
			err = rerr
		}
		if err == nil && time.Now().After(until) {
			err = fmt.Errorf("process %d: %w", other, ErrJobRunning)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		time.Sleep(time.Duration(5+rand.IntN(50)) * time.Millisecond) // the other gives way too
	}
}

// writeClaim makes a claim's file. One that is there is this process's own, which it
// could not remove.
func writeClaim(dst smbstore.Store, name string) error {
	for try := 0; ; try++ {
		f, err := dst.OpenFile(name, smbstore.ReadWrite|smbstore.Create|smbstore.Exclusive)
		switch {
		case err == nil:
			return f.Close()
		case errors.Is(err, smbstore.ErrExist), errors.Is(err, smbstore.ErrSharing):
			return nil
		case !errors.Is(err, smbstore.ErrUncertain) || try == 2:
			return err
		}
	}
}

// rival is another process that claims the job, 0 if none does. What dead ones left goes.
func rival(dst smbstore.Store, mine string) (pid int, err error) {
	infos, err := dst.ReadDir("")
	if err != nil {
		return 0, err
	}
	for _, i := range infos {
		if i.Name == mine || i.Dir || !strings.HasPrefix(i.Name, claimMark) {
			continue
		}
		if pid = claimant(i.Name); pid != 0 {
			return pid, nil
		}
		_ = dst.Remove(i.Name) // dead as it is it hinders nobody
	}
	return 0, nil
}

// takeUp makes the journal, as it is by then, this process's. The file that claims the
// job stays, until letGo, where an undo has no room for that.
func (m *migration) takeUp(ctx context.Context, undo bool) error {
	undo = undo || m.journal.Phase == Cancelling
	release, err := claimAt(ctx, m.ends.dst)
	if errors.Is(err, smbstore.ErrNoSpace) && undo {
		release, err = nil, nil // not even for a name
	}
	if err != nil {
		return err
	}
	now, err := readJournal(m.ends.dst)
	switch {
	case err != nil:
	case now.Job != m.journal.Job:
		err = fmt.Errorf("%s: %w any more: job %s is of another", m.ends.dst.Location(), ErrNoJob, now.Job)
	case now.PID != os.Getpid() && now.running(): // what this process is at it knows (claim)
		err = fmt.Errorf("job %s, process %d: %w", now.Job, now.PID, ErrJobRunning)
	default:
		// An undo may have begun since the journal was opened.
		undo = undo || now.Phase == Cancelling
		m.journal = now
		m.journal.adopt()
		failpoint("job-looked-at")
		err = m.journal.write(m.ends.dst)
		if errors.Is(err, smbstore.ErrNoSpace) && undo {
			m.unclaim = release
			return nil
		}
		failpoint("job-taken-up")
	}
	if release == nil {
		return err
	}
	rerr := release()
	if err == nil && rerr != nil {
		m.unclaim = release // the journal has its name: it can wait
		return nil
	}
	return errors.Join(err, rerr)
}

// letGo closes both ends, and lets others have the job.
func (m *migration) letGo() {
	if m.unclaim != nil {
		_ = m.unclaim() // whoever finds it sees when this process ends
	}
	_ = m.ends.close() // what it fails at has been told
	m.release()
}
