package powerfs

import (
	"math/rand/v2"
	"slices"

	"lunless/smbstore/block"
)

// flush puts a folder's entries on stable storage: the changes that touch no other
// folder, and those whose other folder has been flushed. What they build upon comes
// with them.
func (f *FS) flush(folder *node) {
	for _, op := range f.ops {
		delete(op.folders, folder)
	}
	done := make([]bool, len(f.ops))
	for i := len(f.ops) - 1; i >= 0; i-- {
		done[i] = len(f.ops[i].folders) == 0
		for j := i + 1; j < len(f.ops) && !done[i]; j++ {
			done[i] = done[j] && f.ops[j].follows(f.ops[i])
		}
	}
	left := f.ops[:0:0]
	for i, op := range f.ops {
		if !done[i] {
			left = append(left, op)
			continue
		}
		for _, s := range op.steps {
			s.do(s.folder.kept)
		}
	}
	f.ops = left
}

// follows says whether op cannot be without the earlier one.
func (op *nameOp) follows(earlier *nameOp) bool {
	for _, s := range op.steps {
		for _, e := range earlier.steps {
			switch {
			case e.folder == s.folder && e.key == s.key, // the same name
				s.was.node != nil && s.was.node == e.folder, // a folder that was emptied first
				e.is.node == s.folder:                       // a folder that was made first
				return true
			}
		}
	}
	return false
}

func (s *step) do(entries map[string]link) {
	if s.is.node == nil {
		delete(entries, s.key)
	} else {
		entries[s.key] = s.is
	}
}

// names are entries of folders.
type names map[*node]map[string]link

// apply makes a change if what it builds upon is there. made are the folders that
// earlier changes have made and that a cut may have taken away.
func (n names) apply(op *nameOp, made map[*node]bool) {
	for _, s := range op.steps {
		there := n.of(s.folder)[s.key]
		gone := s.was.node
		if made[s.folder] && !n.named(s.folder) {
			return
		}
		if there.node != s.was.node || gone != nil && gone.dir && len(n.of(gone)) > 0 && !op.keeps(gone) {
			return
		}
	}
	for _, s := range op.steps {
		s.do(n.of(s.folder))
	}
}

// named says whether a name leads to a folder.
func (n names) named(folder *node) bool {
	for _, entries := range n {
		for _, l := range entries {
			if l.node == folder {
				return true
			}
		}
	}
	return false
}

// keeps says whether the node has a name after the change.
func (op *nameOp) keeps(n *node) bool {
	return slices.ContainsFunc(op.steps, func(s step) bool { return s.is.node == n })
}

func (n names) of(folder *node) map[string]link {
	entries, ok := n[folder]
	if !ok {
		entries = make(map[string]link, len(folder.kept))
		for k, l := range folder.kept {
			entries[k] = l
		}
		n[folder] = entries
	}
	return entries
}

// Cut returns the share as a loss of power now may leave it. at, if not nil, is
// called at the same moment. The share goes on unharmed. Equal histories and random
// sources give equal shares.
func (f *FS) Cut(rnd *rand.Rand, at func()) *FS {
	out := &FS{supply: block.NewPowerSupply()}
	var left names
	metas := map[*node]meta{}
	images := f.supply.Cut(rnd, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		left = f.survivors(rnd)
		left.visit(f.root, func(n *node) { metas[n] = n.survivor(rnd) })
		out.inodes = f.inodes
		if at != nil {
			at()
		}
	})
	copies := map[*node]*node{}
	var restore func(n *node) *node
	restore = func(n *node) *node {
		if c := copies[n]; c != nil {
			return c
		}
		c := &node{id: n.id, dir: n.dir, live: metas[n], stable: metas[n], mark: n.mark}
		copies[n] = c
		if !n.dir {
			c.data = out.supply.Plug(images[n.data])
			return c
		}
		c.entries, c.kept = map[string]*entry{}, map[string]link{}
		for key, l := range left.of(n) {
			e := &entry{folder: c, name: l.name, node: restore(l.node)}
			e.node.links++
			c.entries[key], c.kept[key] = e, link{l.name, e.node}
		}
		return c
	}
	out.root = restore(f.root)
	return out
}

// survivors are the names that get through.
func (f *FS) survivors(rnd *rand.Rand) names {
	left := names{}
	until, luck := len(f.ops), []float64{0, 0.3, 0.7, 1}[rnd.IntN(4)]
	inOrder := rnd.IntN(2) == 0
	if inOrder {
		until, luck = rnd.IntN(until+1), 1
	}
	made := map[*node]bool{}
	for _, op := range f.ops[:until] {
		for _, s := range op.steps {
			if s.is.node != nil && s.is.node.dir {
				made[s.is.node] = true
			}
		}
		if rnd.Float64() < luck {
			left.apply(op, made)
		}
	}
	return left
}

// visit calls do with each node that has a name, in an order that is always the same.
func (n names) visit(folder *node, do func(*node)) {
	seen := map[*node]bool{}
	var walk func(*node)
	walk = func(at *node) {
		if seen[at] {
			return
		}
		seen[at] = true
		do(at)
		if !at.dir {
			return
		}
		entries := n.of(at)
		keys := make([]string, 0, len(entries))
		for k := range entries {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			walk(entries[k].node)
		}
	}
	walk(folder)
}

// survivor is the metadata that gets through.
func (n *node) survivor(rnd *rand.Rand) meta {
	pick := func() *meta {
		i := rnd.IntN(len(n.since) + 1)
		if i == len(n.since) {
			return &n.stable
		}
		return &n.since[i]
	}
	m := *pick()
	m.attributes, m.sd = pick().attributes, pick().sd
	t := pick()
	m.created, m.accessed, m.written, m.changed = t.created, t.accessed, t.written, t.changed
	return m
}
