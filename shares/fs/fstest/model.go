package fstest

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"lunless/shares/fs"

	"pgregory.net/rapid"
)

// testModel drives a store and a model of it, a map, with the same random calls.
func testModel(e *env) {
	run := 0
	rapid.Check(e.T, func(t *rapid.T) {
		run++
		m := &model{T: t, env: e, top: fmt.Sprintf("run%d", run), objects: map[string]object{}}
		f, err := e.fs.Create(ctx, m.top, fs.CreateOptions{Dir: true})
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		m.objects[fold(m.top)] = object{stored: m.top, dir: true}
		t.Repeat(map[string]func(*rapid.T){
			"create": m.create, "open": m.open, "rename": m.rename, "remove": m.remove, "": m.check,
		})
	})
}

// object is what the model knows at a path: its stored last component.
type object struct {
	stored  string
	dir     bool
	content string
}

type model struct {
	*rapid.T
	env     *env
	top     string
	objects map[string]object // by folded path
	made    int
}

// fold is enough for the letters the model uses.
func fold(path string) string { return strings.ToUpper(path) }

var components = []string{"a", "A", "b", "B", "ä", "Ä", "long name", "Long Name", "x.", "X."}

func (m *model) path(t *rapid.T, label string) string {
	parts := rapid.SliceOfN(rapid.SampledFrom(components), 1, 3).Draw(t, label)
	return m.top + "/" + strings.Join(parts, "/")
}

func cut(path string) (parent, base string) {
	i := strings.LastIndexByte(path, '/')
	return path[:i], path[i+1:]
}

// above is the error that the folders of a path give, or nil.
func (m *model) above(path string) error {
	parent, _ := cut(path)
	for i := 0; i <= len(parent); i++ {
		if i < len(parent) && parent[i] != '/' {
			continue
		}
		switch o, ok := m.objects[fold(parent[:i])]; {
		case !ok:
			return fs.ErrPathNotExist
		case !o.dir:
			return fs.ErrNotDir
		}
	}
	return nil
}

func (m *model) find(path string) (object, error) {
	if err := m.above(path); err != nil {
		return object{}, err
	}
	o, ok := m.objects[fold(path)]
	if !ok {
		return object{}, fs.ErrNotExist
	}
	return o, nil
}

// stored is path as it is on disk.
func (m *model) stored(path string) string {
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = m.objects[fold(strings.Join(parts[:i+1], "/"))].stored
	}
	return strings.Join(parts, "/")
}

func (m *model) expect(t *rapid.T, what string, got, want error) bool {
	if !errors.Is(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	return got == nil
}

func (m *model) create(t *rapid.T) {
	path, dir := m.path(t, "path"), rapid.Bool().Draw(t, "dir")
	want := m.above(path)
	if _, taken := m.objects[fold(path)]; want == nil && taken {
		want = fs.ErrExist
	}
	f, err := m.env.fs.Create(ctx, path, fs.CreateOptions{Dir: dir, Access: readWrite})
	if !m.expect(t, "create "+path, err, want) {
		return
	}
	defer f.Close()
	_, base := cut(path)
	o := object{stored: base, dir: dir}
	if !dir {
		m.made++
		o.content = fmt.Sprint(m.made)
		if _, err := f.WriteAt([]byte(o.content), 0); err != nil {
			t.Fatal(err)
		}
	}
	m.objects[fold(path)] = o
}

func (m *model) open(t *rapid.T) { m.opened(t, m.path(t, "path"), fs.ReadData).close() }

type handle struct{ fs.File }

func (h handle) close() {
	if h.File != nil {
		h.Close()
	}
}

func (m *model) opened(t *rapid.T, path string, access fs.Access) handle {
	o, want := m.find(path)
	f, err := m.env.fs.Open(ctx, path, access)
	if !m.expect(t, "open "+path, err, want) {
		return handle{}
	}
	if name, err := f.Name(); err != nil || name != m.stored(path) {
		t.Fatalf("opened %s: name %q, %v, want %q", path, name, err, m.stored(path))
	}
	if f.Dir() != o.dir {
		t.Fatalf("%s: folder %t", path, f.Dir())
	}
	if !o.dir && access&fs.ReadData != 0 {
		p := make([]byte, 20)
		if n, err := f.ReadAt(p, 0); err != nil || string(p[:n]) != o.content {
			t.Fatalf("%s holds %q, %v, want %q", path, p[:n], err, o.content)
		}
	}
	return handle{f}
}

func (m *model) rename(t *rapid.T) {
	from, to := m.path(t, "from"), m.path(t, "to")
	replace := rapid.Bool().Draw(t, "replace")
	h := m.opened(t, from, 0)
	defer h.close()
	if h.File == nil {
		return
	}
	o := m.objects[fold(from)]
	want := m.above(to)
	there, taken := m.objects[fold(to)]
	switch {
	case want != nil:
	case fold(from) == fold(to):
	case strings.HasPrefix(fold(to), fold(from)+"/"):
		want = fs.ErrBadName
		if taken {
			want = fs.ErrExist
		}
	case taken && (!replace || o.dir || there.dir):
		want = fs.ErrExist
	}
	if !m.expect(t, "rename "+from+" to "+to, m.env.fs.Rename(ctx, h.File, to, replace), want) {
		return
	}
	_, o.stored = cut(to)
	moved := map[string]object{fold(to): o}
	for path, below := range m.objects {
		if rest, ok := strings.CutPrefix(path, fold(from)+"/"); ok {
			moved[fold(to)+"/"+rest] = below
			delete(m.objects, path)
		}
	}
	delete(m.objects, fold(from))
	maps.Copy(m.objects, moved)
}

func (m *model) remove(t *rapid.T) {
	path := m.path(t, "path")
	h := m.opened(t, path, 0)
	defer h.close()
	if h.File == nil {
		return
	}
	var want error
	for other := range m.objects {
		if strings.HasPrefix(other, fold(path)+"/") {
			want = fs.ErrNotEmpty
		}
	}
	if m.expect(t, "remove "+path, m.env.fs.Remove(ctx, h.File), want) {
		delete(m.objects, fold(path))
	}
}

// check compares the top folder's listing.
func (m *model) check(t *rapid.T) {
	var want []string
	for path, o := range m.objects {
		if parent, _ := cut("/" + path); parent == "/"+fold(m.top) {
			want = append(want, o.stored)
		}
	}
	f, err := m.env.fs.Open(ctx, m.top, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := f.ReadDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	for {
		entry, err := r.Next(nil)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry.Name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("folder holds %q, want %q", got, want)
	}
}
