package smbstore

import (
	"errors"

	"lunless/smbstore/client"
)

// readWhole reads a small file with one request: a host that is suspended while it
// looks at an ownership record must not keep another from changing it.
func (s *smbStore) readWhole(name string, limit int64) (b []byte, done bool, err error) {
	if name == "" {
		return nil, false, nil
	}
	err = s.do("open", name, func(p string, _ bool) error {
		b, err = s.tree.ReadWhole(s.ctx, p, int(min(limit, 1<<30)))
		return err
	})
	if errors.Is(err, client.ErrTooLarge) || errors.Is(err, client.ErrNotSupported) {
		return nil, false, nil
	}
	return b, true, err
}
