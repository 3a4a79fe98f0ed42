package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// Samba knows no application instances: the share mode alone keeps hosts apart, and a
// take-over is refused for as long as Samba keeps the last owner's disks open. A host
// that stands still just before a WRITE, or in the middle of one, keeps them until
// its smbd is ended; then the VM starts on the other host, and what the first had
// composed finds no connection.
func TestFightSamba(t *testing.T) {
	t.Parallel()
	rounds := 1
	if s := os.Getenv("ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	// Without leases an open that is refused is so at once, not when a host that
	// stands still has not given up its lease for 35 seconds. The log says who writes.
	server := storetest.StartSamba(t, "smb2 leases = no", "oplocks = no", "debug pid = yes", "max log size = 0", "log level = 1 smb2:3")
	f := newFight(t, "vms", server, rand.New(rand.NewPCG(1, 1)), os.Getenv("SABOTAGE"))
	f.log, f.judged = "log", judgeSamba
	err := f.begin()
	for i := range rounds {
		if err == nil {
			if stop := []string{"before", "half", "none"}[i%3]; stop == "none" {
				err = f.sambaNotices()
			} else {
				err = f.sambaStops(stop, i%2 == 1)
			}
			if err != nil {
				err = fmt.Errorf("round %d: %w", i+1, err)
			}
		}
	}
	if err == nil {
		err = f.end()
	}
	f.report(err)
}

// sambaStops is a round with an agent that stands still.
func (f *fight) sambaStops(how string, gone bool) error {
	ctx, cancel := context.WithTimeout(f.ctx, perStep)
	defer cancel()
	loser, taker := f.hosts[f.has], f.hosts[1-f.has]
	before, err := loser.Show(ctx, "web1")
	if err != nil {
		return err
	}
	if err := f.stop(ctx, loser, before.PID, how); err != nil {
		return err
	}
	stopped := time.Now()
	taken, err := f.refuse(ctx, taker)
	if err != nil {
		return err
	}
	if taken {
		return errors.New("taken from an owner who stands still with the disks open")
	}
	pids, err := f.smbdsOf(ctx, "disk0.vhdx")
	if err != nil || len(pids) != 1 {
		return fmt.Errorf("smbds with the disk open: %v, %w", pids, err)
	}
	// As an administrator does who has read smbstatus.
	if err := syscall.Kill(pids[0], syscall.SIGTERM); err != nil {
		return err
	}
	// The record is the taker's: no further word is needed.
	if err := f.startWhenFree(ctx, taker); err != nil {
		return err
	}
	if err := f.attach(ctx, taker); err != nil {
		return err
	}
	if gone {
		if err := f.quit(ctx, taker); err != nil {
			return err
		}
	}
	loser.send(syscall.SIGCONT)
	f.longestStop = max(f.longestStop, time.Since(stopped))
	if err := f.lose(ctx, loser, taker, before.PID); err != nil {
		return err
	}
	if err := f.answers(ctx, loser, how); err != nil {
		return err
	}
	f.has, f.rounds = 1-f.has, f.rounds+1
	if gone {
		if _, err := taker.Start(ctx, "web1", StartRequest{}); err != nil {
			return err
		}
		if err := f.attach(ctx, taker); err != nil {
			return err
		}
	}
	_, err = f.console.Verify(ctx)
	return errors.Join(err, f.judge().err())
}

// sambaNotices is a round with an agent that works: it sees in the record that the VM
// is another's, ends its guest and closes the disks.
func (f *fight) sambaNotices() error {
	ctx, cancel := context.WithTimeout(f.ctx, perStep)
	defer cancel()
	loser, taker := f.hosts[f.has], f.hosts[1-f.has]
	before, err := loser.Show(ctx, "web1")
	if err != nil {
		return err
	}
	taken, err := f.refuse(ctx, taker)
	if err != nil {
		return err
	}
	if err := f.lose(ctx, loser, taker, before.PID); err != nil {
		return err
	}
	if !taken { // else it has seen the record while the other tried to open the disks
		if err := f.startWhenFree(ctx, taker); err != nil {
			return err
		}
	}
	f.has, f.rounds = 1-f.has, f.rounds+1
	if err := f.attach(ctx, taker); err != nil {
		return err
	}
	_, err = f.console.Verify(ctx)
	return errors.Join(err, f.judge().err())
}

// refuse has a host try to take the VM while the other has its disks open: refused
// without the word, and with it unless the other lets go meanwhile, and what it says
// helps.
func (f *fight) refuse(ctx context.Context, taker *rig) (taken bool, err error) {
	if _, err := taker.Start(ctx, f.at.String(), StartRequest{}); !errors.Is(err, ErrForeign) {
		return false, fmt.Errorf("without the word: %w", err)
	}
	_, err = taker.Start(ctx, f.at.String(), StartRequest{TakeOver: true})
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, smbstore.ErrSharing) || !strings.Contains(err.Error(), "disk0.vhdx") || !strings.Contains(err.Error(), "end its connection") {
		return false, fmt.Errorf("with the word, while the last owner has the disks open: %w", err)
	}
	return false, nil
}

// startWhenFree starts the VM once nobody else has its disks open.
func (f *fight) startWhenFree(ctx context.Context, h *rig) error {
	for {
		_, err := h.Start(ctx, "web1", StartRequest{})
		if !errors.Is(err, smbstore.ErrSharing) || ctx.Err() != nil {
			return err
		}
	}
}

// smbdsOf gives the server's processes that have a file of that name open for writing.
func (f *fight) smbdsOf(ctx context.Context, name string) ([]int, error) {
	out, err := exec.CommandContext(ctx, "smbstatus", "-s", filepath.Join(f.server.Dir, "smb.conf"), "-L").Output()
	if err != nil {
		return nil, fmt.Errorf("smbstatus: %w", err)
	}
	var pids []int
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if strings.Contains(line, name) && strings.Contains(line, "RDWR") {
			if pid, err := strconv.Atoi(fields[0]); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// judgeSamba reads Samba's log, which tells of each WRITE that is done, of which file
// and by which process: one for each connection. No process writes to a disk again
// that another has written to after it.
func judgeSamba(log io.Reader) *judgement {
	j := &judgement{}
	disks := map[string]*judged{}
	pid := int64(0)
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if m := sambaHead.FindStringSubmatch(lines.Text()); m != nil {
			pid, _ = strconv.ParseInt(m[1], 10, 64)
			continue
		}
		m := sambaWrite.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		j.writes++
		d := disks[m[1]]
		if d == nil {
			d = &judged{past: map[int64]bool{}}
			disks[m[1]] = d
		}
		if d.past[pid] {
			j.blame("process %d has written to %s after another has", pid, m[1])
		}
		if d.writer != pid {
			j.owners++
			d.past[d.writer], d.writer = true, pid
		}
	}
	return j
}

var (
	sambaHead  = regexp.MustCompile(`^\[.* pid=(\d+)\]`)
	sambaWrite = regexp.MustCompile(`smb2: fnum \d+, file (.*\.vhdx), length=\d+ offset=\d+ wrote=\d+`)
)
