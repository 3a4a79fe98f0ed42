package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"lunless/smbstore"
)

// record is what a runtime folder says of its VM. It is written before QEMU
// starts, without a process, and again with it.
type record struct {
	Version int    `json:"version"` // 1
	Config  Config `json:"config"`  // resolved
	Binary  string `json:"binary"`
	PID     int    `json:"pid,omitempty"`
	Process string `json:"process,omitempty"` // as smbstore.Process gives it
}

// maxRecord bounds a record, in bytes.
const maxRecord = 1 << 20

func (r *record) write() error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(r.Config.RuntimeDir, fileRecord), append(b, '\n'))
}

// readRecord reads a runtime folder's record: ErrGone when there is none.
func readRecord(dir string) (*record, error) {
	path := filepath.Join(dir, fileRecord)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: no VM was started here: %w", dir, ErrGone)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Version != 1 {
		return nil, fmt.Errorf("%s: version %d: this program knows 1", path, r.Version)
	}
	r.Config.RuntimeDir, r.Config.Binary = dir, r.Binary
	if err := r.Config.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// Searching the processes is only for a QEMU whose starter ended before it could
// write down the process. Such a child may be short of becoming QEMU still.
const (
	searches    = 5
	searchPause = 20 * time.Millisecond
)

// open holds the process of the record: ErrGone if it has ended.
func (r *record) open() (*process, error) {
	pid, identity := r.PID, r.Process
	for i := 0; identity == "" && i < searches; i++ {
		if i > 0 {
			time.Sleep(searchPause)
		}
		var err error
		if pid, err = findQEMU(r.Config.RuntimeDir); err != nil {
			return nil, err
		}
		if pid != 0 {
			identity = smbstore.Process(pid)
		}
	}
	if identity == "" {
		return nil, r.gone()
	}
	p, err := openProcess(pid, identity)
	if errors.Is(err, ErrGone) {
		err = r.gone()
	}
	return p, err
}

func (r *record) gone() error {
	return &ExitError{Name: r.Config.Name, Log: lastLines(filepath.Join(r.Config.RuntimeDir, fileLog))}
}

// replaceFile writes a file in one step: it is the old or the new one.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// maxTail is how much of a log goes into an error, in bytes.
const maxTail = 2000

func tail(s string) string {
	if len(s) > maxTail {
		s = "…" + s[len(s)-maxTail:]
	}
	return s
}

// lastLines returns the end of a log, "" if there is none.
func lastLines(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxTail {
		f.Seek(-maxTail, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, maxTail))
	return string(b)
}
