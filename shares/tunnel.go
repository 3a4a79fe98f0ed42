package shares

import (
	"sync"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
)

// tunnel remembers the long names of files whose names have gone lately, by their
// short ones: a program of old that deletes a file, or moves it away, and makes it again by
// its short name gets the long one back (MS-FSA 2.1.1.1 TunnelCacheList, 2.1.5.1.1). Creation
// times and object IDs are not tunnelled.
type tunnel struct {
	mu    sync.Mutex // guards all; innermost
	names map[string]tunnelled
	ring  [maxTunnelled]string // keys, the oldest at next
	next  int
}

type tunnelled struct {
	name string // the last component, as it was stored
	at   time.Time
}

const (
	maxTunnelled = 256
	tunnelTime   = 15 * time.Second // as on Windows
)

// tunnelKey is a short name in a folder.
func (s *share) tunnelKey(folder, short string) string {
	return s.link(folder) + "/" + fscc.UpcaseName(short)
}

// left notes that the file at path has lost that name.
func (t *tunnel) left(s *share, path string) {
	folder, name := splitPath(path, '/')
	short := fs.ShortName(name)
	if short == name {
		return
	}
	key := s.tunnelKey(folder, short)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names == nil {
		t.names = make(map[string]tunnelled)
	}
	if _, known := t.names[key]; !known {
		delete(t.names, t.ring[t.next])
		t.ring[t.next] = key
		t.next = (t.next + 1) % maxTunnelled
	}
	t.names[key] = tunnelled{name, time.Now()}
}

// long is the path of a new file that is to be called path.
func (t *tunnel) long(s *share, path string) string {
	folder, name := splitPath(path, '/')
	key := s.tunnelKey(folder, name)
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.names[key]
	if !ok || time.Since(e.at) > tunnelTime {
		return path
	}
	e.at = time.Time{} // once
	t.names[key] = e
	return join(folder, e.name)
}
