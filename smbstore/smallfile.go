package smbstore

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// tempMark is in the name of every file that is to replace another; one that a
// crash left is garbage.
const tempMark = ".lunless-tmp-"

// IsTemp tells a file that an interrupted WriteFile left behind.
func IsTemp(name string) bool { return strings.Contains(path.Base(name), tempMark) }

// nonce is a short random name part.
func nonce() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// wholeReader is a store that reads a small file in one step, so that a process
// suspended meanwhile does not keep it open; false if it must be opened.
type wholeReader interface {
	readWhole(name string, limit int64) ([]byte, bool, error)
}

// ReadFile reads a small file whole; one larger than limit bytes is an error.
func ReadFile(s Store, name string, limit int64) ([]byte, error) {
	var b []byte
	err := retryBusy(func() error {
		if w, ok := s.(wholeReader); ok {
			var done bool
			var err error
			if b, done, err = w.readWhole(name, limit); done {
				return err
			}
		}
		f, err := s.OpenFile(name, Read)
		if err != nil {
			return err
		}
		defer f.Close()
		size, err := f.Size()
		if err != nil {
			return err
		}
		if size > limit {
			return opError("read", s.Location().Join(name), fmt.Errorf("%d bytes, at most %d are expected", size, limit))
		}
		b = make([]byte, size)
		n, err := f.ReadAt(b, 0)
		b = b[:n]
		if err != nil && err != io.EOF {
			return err
		}
		return nil
	})
	return b, err
}

// retryBusy repeats what a reader or a rename of a moment got in the way of.
func retryBusy(op func() error) error {
	for wait := 5 * time.Millisecond; ; wait *= 2 {
		err := op()
		if !errors.Is(err, ErrSharing) || wait > time.Second {
			return err
		}
		time.Sleep(wait)
	}
}

// WriteFile replaces a small file in one step: readers see the old content or
// the new, whatever happens, and once it returns the new one is on stable storage.
func WriteFile(s Store, name string, data []byte) error {
	temp, err := writeTemp(s, path.Dir(name), "", data)
	if err != nil {
		return err
	}
	return replaceWith(s, temp, name)
}

// writeTemp makes a file that is to replace another in the folder, on stable
// storage, and gives its name, which begins with stem.
func writeTemp(s Store, dir, stem string, data []byte) (temp string, err error) {
	var f File
	err = ErrUncertain
	for try := 0; errors.Is(err, ErrUncertain) && try < 3; try++ {
		// A name of which it is unknown whether it was made is left for another.
		temp = path.Join(dir, stem+tempMark+nonce())
		f, err = s.OpenFile(temp, ReadWrite|Create|Exclusive)
	}
	if err != nil {
		return "", err
	}
	err = writeSynced(f, data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", errors.Join(err, ignoreMissing(s.Remove(temp)))
	}
	return temp, nil
}

// replaceWith gives a temporary file its name.
func replaceWith(s Store, temp, name string) error {
	if err := s.Rename(temp, name); err != nil {
		return errors.Join(err, ignoreMissing(s.Remove(temp)))
	}
	return s.SyncDir(dirOf(name))
}

func writeSynced(f File, data []byte) error {
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	return f.Sync()
}

func ignoreMissing(err error) error {
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

// SameFolder tells whether two stores are one folder under two names: what is made in
// the one is in the other then.
func SameFolder(a, b Store) (bool, error) {
	probe, err := writeTemp(a, "", "", nil)
	if err != nil {
		return false, err
	}
	_, err = b.Stat(probe)
	same := err == nil
	return same, errors.Join(ignoreMissing(err), ignoreMissing(a.Remove(probe)))
}

// dirOf is path.Dir with the store's root as "".
func dirOf(name string) string {
	if d := path.Dir(name); d != "." {
		return d
	}
	return ""
}
