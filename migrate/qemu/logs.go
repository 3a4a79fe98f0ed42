package qemu

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"
)

// A guest can write to its console, and have QEMU complain, for ever. What is kept
// of each log is this much at most in the file itself and as much in its
// predecessor, and what comes between two looks.
const (
	maxLog  = 8 << 20 // bytes
	lookLog = 2 * time.Second
)

// tend keeps the logs short until QEMU has ended or the machine is let go.
func (m *Machine) tend() {
	ticks := time.NewTicker(lookLog)
	defer ticks.Stop()
	for {
		select {
		case <-m.ended:
			return
		case <-m.letGo:
			return
		case <-ticks.C:
		}
		for _, name := range []string{fileOutput, fileLog} {
			// One that cannot be shortened now is looked at again.
			_ = shorten(filepath.Join(m.dir, name), maxLog)
		}
	}
}

// shorten moves a log's content, of which QEMU only appends to the end, to its
// predecessor. What comes in the moment between is lost.
func shorten(path string, limit int64) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= limit {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	old, err := os.OpenFile(path+".1", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Seek(-limit, io.SeekEnd); err == nil {
		_, err = io.CopyN(old, f, limit)
	}
	return errors.Join(err, old.Close(), os.Truncate(path, 0))
}
