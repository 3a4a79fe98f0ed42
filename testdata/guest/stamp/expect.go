package stamp

import (
	"errors"
	"fmt"
	"slices"
)

// state is what a block may hold: the number of a run, from 1, in bits 44 to 59,
// the operation below it. 0: never written, thus zeroes.
type state uint64

const (
	zeroed  state = 1 << 63 // zeroes, by that operation
	trimmed state = 1 << 62 // that, or zeroes
	seqBits       = 44
	maxSeq        = 1<<seqBits - 1
)

func stateOf(run int, seq uint64) state { return state(run)<<seqBits | state(seq&maxSeq) }
func (s state) content() state          { return s &^ (zeroed | trimmed) }
func (s state) zeroOK() bool            { return s == 0 || s&(zeroed|trimmed) != 0 }

func (s state) String() string {
	if s == 0 {
		return "zeroes (never written)"
	}
	c := s.content()
	text := fmt.Sprintf("operation %d of run %d", uint64(c)&maxSeq, c>>seqBits)
	switch {
	case s&zeroed != 0:
		return "zeroes by " + text
	case s&trimmed != 0 && c == 0:
		return "zeroes (trimmed)"
	case s&trimmed != 0:
		return text + " or zeroes (trimmed)"
	}
	return text
}

// Errors of a block's verification. ErrDamaged is another one.
var (
	ErrForeign = errors.New("belongs elsewhere")
	ErrLost    = errors.New("lost write")
)

// Expect is what must be on a disk: for each block what was surely done to it
// last, and what may have come after that. Not for concurrent use.
type Expect struct {
	*Super
	base  []state
	extra map[int64][]state
}

// NewExpect is for a disk whose runs are in s; nothing is known of what they did.
func NewExpect(s *Super) *Expect {
	return &Expect{Super: s, base: make([]state, s.Blocks), extra: map[int64][]state{}}
}

// Replay goes through a run, by its place in Runs: what it did up to flushed is
// certain, up to last it may have been done.
func (e *Expect) Replay(run int, flushed, last uint64) {
	id := e.Runs[run].ID
	for seq := uint64(1); seq <= max(flushed, last); seq++ {
		e.Do(run, e.Op(id, e.Disk, seq), seq <= flushed)
	}
}

// Do notes an operation that was done, or may have been.
func (e *Expect) Do(run int, op Op, certain bool) {
	s := stateOf(run+1, op.Seq)
	if op.Kind == Zero || op.Kind == Trim && !certain {
		s |= zeroed
	}
	for i := op.First; i < op.First+op.Count; i++ {
		switch {
		case !certain:
			e.extra[i] = append(e.extra[i], s)
		case op.Kind == Trim:
			e.base[i] |= trimmed
		default:
			e.base[i] = s
			delete(e.extra, i)
		}
	}
}

func (e *Expect) runOf(id uint64) int {
	return slices.IndexFunc(e.Runs, func(r Run) bool { return r.ID == id })
}

// Check verifies written block i, whose content is b. The error wraps
// ErrDamaged, ErrForeign or ErrLost.
func (e *Expect) Check(i int64, b []byte) error {
	s, _, err := e.observe(i, b)
	if err != nil {
		return err
	}
	return e.judge(i, s)
}

// observe returns what block i holds, zeroed alone for zeroes. The error is of
// what cannot be right whatever was written.
func (e *Expect) observe(i int64, b []byte) (state, Stamp, error) {
	got, zero, err := Read(b)
	if zero {
		return zeroed, got, nil
	}
	if err != nil {
		return 0, got, fmt.Errorf("block %d of disk %d: %w", e.At(i), e.Disk, err)
	}
	run := e.runOf(got.Run)
	switch {
	case got.Set != e.Set:
		return 0, got, fmt.Errorf("block %d of disk %d: %w: stamped by another guest, set %x", e.At(i), e.Disk, ErrForeign, got.Set)
	case got.Disk != e.Disk || got.Block != e.At(i):
		return 0, got, fmt.Errorf("block %d of disk %d: %w: holds block %d of disk %d", e.At(i), e.Disk, ErrForeign, got.Block, got.Disk)
	case run < 0:
		return 0, got, fmt.Errorf("block %d of disk %d: %w: stamped by the unknown run %x: a second writer, or an older copy of this disk",
			e.At(i), e.Disk, ErrForeign, got.Run)
	}
	return stateOf(run+1, got.Seq), got, nil
}

// judge tells whether block i may hold what observe returned.
func (e *Expect) judge(i int64, found state) error {
	base, extra := e.base[i], e.extra[i]
	if found == zeroed {
		if base.zeroOK() || slices.ContainsFunc(extra, state.zeroOK) {
			return nil
		}
		return fmt.Errorf("block %d of disk %d: %w: holds zeroes, must be %v", e.At(i), e.Disk, ErrLost, base)
	}
	if base&zeroed == 0 && base.content() == found || slices.Contains(extra, found) {
		return nil
	}
	if found > base.content() {
		return fmt.Errorf("block %d of disk %d: %w: holds %v, newest can be %v", e.At(i), e.Disk, ErrForeign, found, base)
	}
	return fmt.Errorf("block %d of disk %d: %w: holds %v, must be %v", e.At(i), e.Disk, ErrLost, found, base)
}
