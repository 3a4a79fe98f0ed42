// Package powertest is what the disk formats are tested with: folders of files
// whose power fails, a model of what a disk promises, and the soak that holds
// one against the other.
package powertest

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"lunless/smbstore/block"
)

// Folder is a folder in memory of files that know what of them is on stable
// storage. Its names are changes too: they are stable after Sync. All methods
// may be called concurrently.
type Folder struct {
	supply  *block.PowerSupply
	mu      sync.Mutex // inside the supply's
	live    names
	stable  names
	pending []nameOp // since the last Sync, in order
}

type names map[string]*block.PowerCut

// nameOp is one change of the names: file under the name to, from gone.
type nameOp struct {
	from, to string // "" for none
	file     *block.PowerCut
}

func (n names) do(op nameOp) {
	if op.from != "" && n[op.from] == op.file {
		delete(n, op.from)
	}
	if op.to != "" {
		n[op.to] = op.file
	}
}

// NewFolder returns an empty folder.
func NewFolder() *Folder {
	return &Folder{supply: block.NewPowerSupply(), live: names{}, stable: names{}}
}

// Watch is block.PowerSupply.Watch, of names too.
func (d *Folder) Watch(fn func(block.OpKind)) { d.supply.Watch(fn) }

// Create makes an empty file; it fails with fs.ErrExist.
func (d *Folder) Create(name string) (*block.PowerCut, error) {
	f := d.supply.Plug(block.NewMemFile(0))
	err := d.change("create", name, func() (nameOp, error) {
		if d.live[name] != nil {
			return nameOp{}, fs.ErrExist
		}
		return nameOp{to: name, file: f}, nil
	})
	if err != nil {
		d.supply.Unplug(f)
		return nil, err
	}
	return f, nil
}

// Open returns a file; every call the same one. Its Close does nothing.
func (d *Folder) Open(name string) (*block.PowerCut, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.live[name]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
}

// Remove takes a name away.
func (d *Folder) Remove(name string) error {
	return d.change("remove", name, func() (nameOp, error) { return nameOp{from: name, file: d.live[name]}, d.have(name) })
}

// Rename gives a file another name, replacing what has it.
func (d *Folder) Rename(from, to string) error {
	return d.change("rename", from, func() (nameOp, error) { return nameOp{from, to, d.live[from]}, d.have(from) })
}

func (d *Folder) have(name string) error {
	if d.live[name] == nil {
		return fs.ErrNotExist
	}
	return nil
}

func (d *Folder) change(what, name string, make func() (nameOp, error)) error {
	return d.supply.Do(block.OpWrite, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		op, err := make()
		if err != nil {
			return fmt.Errorf("%s %s: %w", what, name, err)
		}
		d.live.do(op)
		d.pending = append(d.pending, op)
		return nil
	})
}

// Sync puts the names on stable storage, not what is in the files.
func (d *Folder) Sync() error {
	var gone []*block.PowerCut
	err := d.supply.Do(block.OpFlush, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		kept := map[*block.PowerCut]bool{}
		for _, f := range d.live {
			kept[f] = true
		}
		for _, f := range d.stable {
			if !kept[f] {
				gone = append(gone, f)
			}
		}
		d.stable, d.pending = maps.Clone(d.live), nil
		return nil
	})
	for _, f := range gone {
		d.supply.Unplug(f)
	}
	return err
}

// Names returns the files' names, sorted.
func (d *Folder) Names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.live))
}

// Cut returns the folder as a loss of power now may leave it: names synced, and
// of the changes since any, each whole or not at all; files as their Cut leaves
// them. The folder goes on unharmed.
func (d *Folder) Cut(rnd *rand.Rand) *Folder {
	var left names
	images := d.supply.Cut(rnd, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		left = maps.Clone(d.stable)
		until := len(d.pending)
		inOrder := rnd.IntN(2) == 0
		if inOrder {
			until = rnd.IntN(until + 1)
		}
		for _, op := range d.pending[:until] {
			if inOrder || rnd.IntN(2) == 0 {
				left.do(op)
			}
		}
	})
	out := NewFolder()
	for _, name := range slices.Sorted(maps.Keys(left)) {
		out.live[name] = out.supply.Plug(images[left[name]])
	}
	out.stable = maps.Clone(out.live)
	return out
}

// Clone returns the folder as it is, all of it stable.
func (d *Folder) Clone() *Folder {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := NewFolder()
	for name, f := range d.live {
		out.live[name] = out.supply.Plug(f.Image())
	}
	out.stable = maps.Clone(out.live)
	return out
}

// Equal tells whether both folders have the same names and content.
func (d *Folder) Equal(o *Folder) bool {
	if !slices.Equal(d.Names(), o.Names()) {
		return false
	}
	for name, f := range d.live {
		if !f.Image().Equal(o.live[name].Image()) {
			return false
		}
	}
	return true
}
