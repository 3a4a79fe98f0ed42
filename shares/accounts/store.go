package accounts

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lunless/smbstore/auth"
	"lunless/smbstore/fscc"
)

const (
	fileName = "accounts.json"
	lockName = "accounts.lock"
)

// Store is the accounts of one data folder. All methods may be called from any
// goroutine; other processes may have the same folder open, and what they change
// is seen by the next call.
type Store struct {
	path string
	lock string

	mu   sync.Mutex
	file *fileJSON // what is on disk as of seen; replaced, never changed
	seen stamp
}

// stamp tells one content of the file from the next: it is replaced, so that the
// inode changes even within the clock's granularity.
type stamp struct {
	ino   uint64
	mtime time.Time
	size  int64
}

// Open opens the accounts of a data folder, and makes both, with a machine SID of
// its own, where they are missing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	s := &Store{path: filepath.Join(dir, fileName), lock: filepath.Join(dir, lockName)}
	_, err := s.current()
	if errors.Is(err, fs.ErrNotExist) {
		err = s.change(func(*fileJSON) error { return nil })
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// current is the file as it is on disk now. It is shared: nobody changes it.
func (s *Store) current() (*fileJSON, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fi, err := os.Stat(s.path)
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	if s.file != nil && stampOf(fi) == s.seen {
		return s.file, nil
	}
	return s.read()
}

func stampOf(fi fs.FileInfo) stamp {
	out := stamp{mtime: fi.ModTime(), size: fi.Size()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		out.ino = st.Ino
	}
	return out
}

// read reads the file. The caller holds mu.
func (s *Store) read() (*fileJSON, error) {
	h, err := os.Open(s.path)
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	defer h.Close()
	fi, err := h.Stat() // of this very content, even if the name has moved on
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	const limit = 64 << 20
	if fi.Size() > limit {
		return nil, fmt.Errorf("accounts: %s: %w: %d bytes", s.path, ErrDamaged, fi.Size())
	}
	b := make([]byte, fi.Size())
	if _, err := h.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	f, err := decodeFile(b)
	if err != nil {
		return nil, fmt.Errorf("accounts: %s: %w", s.path, err)
	}
	s.file, s.seen = f, stampOf(fi)
	return f, nil
}

// change applies fn to the file's newest content and writes the result, while no
// other process does. Nothing is written when fn fails.
func (s *Store) change(fn func(*fileJSON) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lock, err := os.OpenFile(s.lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	defer lock.Close() // and with it the lock
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return fmt.Errorf("accounts: lock %s: %w", s.lock, err)
	}

	f, err := s.read() // a fresh copy, ours to change until it is written
	if errors.Is(err, fs.ErrNotExist) {
		f, err = newFile(newMachineSID()), nil
	}
	if err != nil {
		return err
	}
	s.file = nil
	if err := fn(f); err != nil {
		return err
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	if err := replace(s.path, append(b, '\n')); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	return nil
}

// replace gives the file new content in one step that survives a loss of power.
func replace(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	h, err := os.CreateTemp(dir, "."+fileName+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(h.Name())
		}
	}()
	_, err = h.Write(content)
	if err == nil {
		err = h.Sync()
	}
	if err := errors.Join(err, h.Close()); err != nil {
		return err
	}
	if err := os.Rename(h.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// newMachineSID makes up S-1-5-21 with 96 random bits (MS-DTYP 2.4.2.4).
func newMachineSID() fscc.SID {
	var b [12]byte
	rand.Read(b[:])
	le := binary.LittleEndian
	sid, _ := fscc.MakeSID(5, 21, le.Uint32(b[0:]), le.Uint32(b[4:]), le.Uint32(b[8:]))
	return sid
}

// MachineSID is the SID that local accounts are children of.
func (s *Store) MachineSID() (fscc.SID, error) {
	f, err := s.current()
	if err != nil {
		return fscc.SID{}, err
	}
	return f.MachineSID, nil
}

// AddUser makes an account and puts it into the group Users. Errors: ErrBadName,
// ErrBadPassword, ErrExists.
func (s *Store) AddUser(name, password string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("accounts: user %q: %w", name, err)
	}
	if err := checkPassword(password); err != nil {
		return fmt.Errorf("accounts: user %q: %w", name, err)
	}
	return s.change(func(f *fileJSON) error {
		if _, ok := wellKnownName(name); ok || f.user(name) >= 0 || f.group(name) >= 0 {
			return fmt.Errorf("accounts: user %q: %w", name, ErrExists)
		}
		u := userJSON{RID: f.NextRID, Name: name, NTHash: auth.NTHash(password), PasswordSet: time.Now().UTC().Truncate(time.Second)}
		f.NextRID++
		f.Users = append(f.Users, u)
		if g := f.group("Users"); g >= 0 {
			f.Groups[g].Members = append(f.Groups[g].Members, f.sid(u.RID))
		}
		return nil
	})
}

// changeUser applies fn to one user. Error: ErrNoUser.
func (s *Store) changeUser(name string, fn func(*userJSON)) error {
	return s.change(func(f *fileJSON) error {
		i := f.user(name)
		if i < 0 {
			return fmt.Errorf("accounts: user %q: %w", name, ErrNoUser)
		}
		fn(&f.Users[i])
		return nil
	})
}

// SetPassword gives an account another password. Errors: ErrNoUser, ErrBadPassword.
func (s *Store) SetPassword(name, password string) error {
	if err := checkPassword(password); err != nil {
		return fmt.Errorf("accounts: user %q: %w", name, err)
	}
	return s.changeUser(name, func(u *userJSON) {
		u.NTHash, u.PasswordSet = auth.NTHash(password), time.Now().UTC().Truncate(time.Second)
	})
}

// SetDisabled forbids or allows an account to log on. Error: ErrNoUser.
func (s *Store) SetDisabled(name string, disabled bool) error {
	return s.changeUser(name, func(u *userJSON) { u.Disabled = disabled })
}

// SetFullName sets what an account is called in listings. Error: ErrNoUser.
func (s *Store) SetFullName(name, full string) error {
	return s.changeUser(name, func(u *userJSON) { u.FullName = full })
}

// RemoveUser removes an account, from its groups too. Its SID is never given to
// another. Error: ErrNoUser.
func (s *Store) RemoveUser(name string) error {
	return s.change(func(f *fileJSON) error {
		i := f.user(name)
		if i < 0 {
			return fmt.Errorf("accounts: user %q: %w", name, ErrNoUser)
		}
		sid := f.sid(f.Users[i].RID)
		f.Users = slices.Delete(f.Users, i, i+1)
		for g := range f.Groups {
			f.Groups[g].Members = slices.DeleteFunc(f.Groups[g].Members, func(m fscc.SID) bool { return m == sid })
		}
		return nil
	})
}

// AddMember puts a user into a group, where it may be already. Errors: ErrNoUser,
// ErrNoGroup.
func (s *Store) AddMember(group, user string) error {
	return s.changeMember(group, user, func(members []fscc.SID, sid fscc.SID) []fscc.SID {
		if slices.Contains(members, sid) {
			return members
		}
		return append(members, sid)
	})
}

// RemoveMember takes a user out of a group, where it may be no longer. Errors:
// ErrNoUser, ErrNoGroup.
func (s *Store) RemoveMember(group, user string) error {
	return s.changeMember(group, user, func(members []fscc.SID, sid fscc.SID) []fscc.SID {
		return slices.DeleteFunc(members, func(m fscc.SID) bool { return m == sid })
	})
}

func (s *Store) changeMember(group, user string, fn func([]fscc.SID, fscc.SID) []fscc.SID) error {
	return s.change(func(f *fileJSON) error {
		u, g := f.user(user), f.group(group)
		switch {
		case u < 0:
			return fmt.Errorf("accounts: user %q: %w", user, ErrNoUser)
		case g < 0:
			return fmt.Errorf("accounts: group %q: %w", group, ErrNoGroup)
		}
		f.Groups[g].Members = fn(f.Groups[g].Members, f.sid(f.Users[u].RID))
		return nil
	})
}

// List returns the users in the order they were added.
func (s *Store) List() ([]User, error) {
	f, err := s.current()
	if err != nil {
		return nil, err
	}
	out := make([]User, len(f.Users))
	for i := range f.Users {
		out[i] = f.export(&f.Users[i])
	}
	return out, nil
}

// Groups returns the groups with their members.
func (s *Store) Groups() ([]Group, error) {
	f, err := s.current()
	if err != nil {
		return nil, err
	}
	out := make([]Group, len(f.Groups))
	for i, g := range f.Groups {
		out[i] = Group{SID: g.SID, Name: g.Name, Members: slices.Clone(g.Members)}
	}
	return out, nil
}

// Lookup finds a user by name. Error: ErrNoUser.
func (s *Store) Lookup(name string) (User, error) {
	f, err := s.current()
	if err != nil {
		return User{}, err
	}
	i := f.user(name)
	if i < 0 {
		return User{}, fmt.Errorf("accounts: user %q: %w", name, ErrNoUser)
	}
	return f.export(&f.Users[i]), nil
}

// Credential is auth.Config.Lookup over local accounts: the domain the client
// names is not looked at, and Account is the User.
func (s *Store) Credential(_, user string) (auth.Credential, error) {
	u, err := s.Lookup(user)
	switch {
	case errors.Is(err, ErrNoUser):
		return auth.Credential{}, auth.ErrUnknownUser
	case err != nil:
		return auth.Credential{}, err
	}
	c := auth.Credential{NTHash: u.NTHash, Account: u}
	if u.Disabled {
		c.Denied = fmt.Errorf("accounts: user %q: %w", u.Name, ErrDisabled)
	}
	return c, nil
}
