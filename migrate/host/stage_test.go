package host

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"lunless/migrate/internal/hooks"
	"lunless/smbstore/block"
)

// stage has an agent's process stand still at a point of a migration, and keep what
// the destination of the last one held at its switch. It is told, a line each:
//
//	stop POINT  whoever comes to the failpoint next says "at POINT" and waits; with a
//	            number behind, who comes as that one
//	go          until this
//	frozen      say what the disks held at the switch, a frozenAnswer
type stage struct {
	mu     sync.Mutex // guards what follows
	stop   string
	hits   int
	goOn   chan struct{}
	frozen []*frozenDisk
}

// frozenAnswer has the hashes of every frozenChunk, by the disks' names at the source.
type frozenAnswer struct {
	Disks map[string][]string
	Error string `json:",omitempty"`
}

const frozenChunk = 1 << 20

func newStage() *stage {
	s := &stage{}
	hooks.Failpoint, hooks.AtSwitch = s.point, s.freeze
	return s
}

func (s *stage) listen(in io.Reader) {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		s.mu.Lock()
		switch word {
		case "stop":
			name, hits, _ := strings.Cut(rest, " ")
			s.hits, _ = strconv.Atoi(hits) //nolint:errcheck // none is the first
			s.stop, s.goOn = name, make(chan struct{})
		case "go":
			close(s.goOn)
		case "frozen":
			b, err := json.Marshal(s.tell())
			if err != nil {
				panic(err)
			}
			fmt.Println(string(b))
		}
		s.mu.Unlock()
	}
}

func (s *stage) point(name string) {
	s.mu.Lock()
	stop, goOn := s.stop == name, s.goOn
	if stop && s.hits > 1 {
		s.hits--
		stop = false
	}
	if stop {
		s.stop = ""
	}
	s.mu.Unlock()
	if stop {
		fmt.Println("at", name)
		<-goOn
	}
}

// freeze has the disks keep what they hold. Nothing is read for that while the guest
// is held: its stall stays what it is.
func (s *stage) freeze(disks []hooks.Disk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = nil
	for _, d := range disks {
		f := &frozenDisk{name: d.Name, slot: d.Chain.Disk(), old: map[int64][]byte{}}
		_, err := f.slot.Swap(func(cur block.Device) (block.Device, error) {
			f.dev = cur
			return frozenDevice{block.NewIntercept(cur, f.keep), cur}, nil
		})
		if err != nil {
			return err
		}
		s.frozen = append(s.frozen, f)
	}
	return nil
}

// tell reads what was kept, and has the disks keep no more; s.mu is held.
func (s *stage) tell() frozenAnswer {
	a := frozenAnswer{Disks: map[string][]string{}}
	for _, f := range s.frozen {
		hashes, err := f.content()
		if err == nil {
			_, err = f.slot.Swap(func(block.Device) (block.Device, error) { return f.dev, nil })
		}
		if err != nil {
			a.Error = fmt.Sprintf("%s: %v", f.name, err)
		}
		a.Disks[f.name] = hashes
	}
	s.frozen = nil
	return a
}

// frozenDisk is a disk whose content of one moment is put aside where it changes.
type frozenDisk struct {
	name string
	slot *block.Slot
	dev  block.Device

	mu  sync.Mutex // held while content is put aside, and read
	old map[int64][]byte
}

const frozenGranule = 64 << 10

// keep is a block.Hook.
func (f *frozenDisk) keep(ctx context.Context, op block.Op) error {
	if op.Kind != block.OpWrite && op.Kind != block.OpZero && op.Kind != block.OpTrim {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for g := op.Off / frozenGranule; g*frozenGranule < op.Off+op.Len; g++ {
		if f.old[g] != nil {
			continue
		}
		p := make([]byte, min(frozenGranule, f.dev.Size()-g*frozenGranule))
		if err := f.dev.ReadAt(ctx, p, g*frozenGranule); err != nil {
			return err
		}
		f.old[g] = p
	}
	return nil
}

// content gives the hashes of what the disk held.
func (f *frozenDisk) content() ([]string, error) {
	return chunkHashes(f.dev.Size(), func(p []byte, off int64) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if err := f.dev.ReadAt(context.Background(), p, off); err != nil {
			return err
		}
		for at := 0; at < len(p); at += frozenGranule {
			copy(p[at:], f.old[(off+int64(at))/frozenGranule])
		}
		return nil
	})
}

func chunkHashes(size int64, read func(p []byte, off int64) error) ([]string, error) {
	var all []string
	p := make([]byte, frozenChunk)
	for off := int64(0); off < size; off += frozenChunk {
		p = p[:min(frozenChunk, size-off)]
		if err := read(p, off); err != nil {
			return nil, err
		}
		all = append(all, fmt.Sprintf("%x", sha256.Sum256(p)))
	}
	return all, nil
}

// frozenDevice is a device that a hook sees the requests of.
type frozenDevice struct {
	*block.Intercept
	dev block.Device
}

func (d frozenDevice) Unwrap() block.Device { return d.dev }
func (d frozenDevice) Uncommitted() bool    { return block.Uncommitted(d.dev) }

// tellStage tells a staged agent something.
func (h *rig) tellStage(format string, args ...any) {
	h.t.Helper()
	_, err := fmt.Fprintf(h.in, format+"\n", args...)
	h.must(err)
}
