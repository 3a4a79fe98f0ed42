package vhdx

import (
	"errors"
	"fmt"
	"math"

	"lunless/smbstore/block"
)

// errNoSequence is the ErrCorrupt of a log that is in use, but has no valid
// sequence (MS-VHDX 2.3.3).
var errNoSequence = fmt.Errorf("%w", ErrCorrupt)

// retireUnusedLog takes a log out of use that nothing was ever written to: the
// header names it, but no sector of the log does. QEMU leaves that if it is killed
// between the two. What goes through a log reaches its place only after the log has
// it, so nothing is lost. found tells whether it was so.
func retireUnusedLog(f block.File) (found Finding, done bool, err error) {
	im, err := loadImage(f)
	if im == nil || !errors.Is(err, errNoSequence) {
		return found, false, nil // for others to say
	}
	off := int64(im.hdr.LogOffset)
	named, err := newRing(f, off, int64(im.hdr.LogLength), im.hdr.LogGUID).named()
	if err != nil || named || im.hdr.Sequence > math.MaxUint64-1<<32 {
		return found, false, err
	}
	w := headerWriter{f: f, cur: im.hdr, slot: im.slot}
	if err := w.update(func(h *header) { h.LogGUID = GUID{} }); err != nil {
		return found, false, err
	}
	return Finding{Severity: Damage, Offset: off, What: "log taken out of use: nothing had been written to it"}, true, nil
}

// named tells whether a sector of the log claims to begin an entry of it, valid
// or not.
func (r *ring) named() (bool, error) {
	for at := int64(0); at < r.length; at += logSector {
		b, err := r.sector(at)
		if err != nil {
			return false, err
		}
		if string(b[:4]) == sigEntry && GUID(b[32:48]) == r.guid {
			return true, nil
		}
	}
	return false, nil
}
