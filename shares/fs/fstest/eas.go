package fstest

import (
	"bytes"
	"fmt"
	"reflect"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
)

func testEAs(e *env) {
	v, err := e.fs.Volume(ctx)
	e.ok(err)
	f := e.create("f")
	if !v.EAs {
		e.is(fs.SetEAs(ctx, f, nil), fs.ErrNotSupported)
		return
	}
	ea := func(name, value string) fscc.EaEntry {
		return fscc.EaEntry{Name: []byte(name), Value: []byte(value)}
	}
	has := func(f fs.File, want ...fscc.EaEntry) {
		e.Helper()
		got, err := fs.EAs(ctx, f)
		e.ok(err)
		if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			e.Errorf("extended attributes %q, want %q", got, want)
		}
		if info := e.stat(f); info.EASize != uint32(fs.EASize(want)) {
			e.Errorf("EASize %d, want %d", info.EASize, fs.EASize(want))
		}
	}
	has(f)
	e.ok(fs.SetEAs(ctx, f, []fscc.EaEntry{ea("One", "first"), ea("two", "2")}))
	has(f, ea("One", "first"), ea("two", "2"))
	need := fscc.EaEntry{Flags: fscc.FILE_NEED_EA, Name: []byte("ONE"), Value: []byte("again")}
	e.ok(fs.SetEAs(ctx, f, []fscc.EaEntry{need, ea("TWO", ""), ea("three", "3"), ea("none", "")}))
	has(f, need, ea("three", "3"))
	e.ok(f.SetAttributes(ctx, fscc.FILE_ATTRIBUTE_HIDDEN))
	has(e.open("F", 0), need, ea("three", "3"))
	e.is(fs.SetEAs(ctx, f, []fscc.EaEntry{ea("three", ""), ea("big", string(bytes.Repeat([]byte("x"), 65530)))}), fs.ErrEATooLarge)
	has(f, need, ea("three", "3"))
	e.ok(fs.SetEAs(ctx, f, []fscc.EaEntry{ea("one", ""), ea("three", "")}))
	has(f)
	if info := e.stat(f); info.Attributes != fscc.FILE_ATTRIBUTE_HIDDEN {
		e.Errorf("attributes %#x", info.Attributes)
	}
	d := e.mkdir("d")
	for i := range 10 {
		e.ok(fs.SetEAs(ctx, d, []fscc.EaEntry{ea(fmt.Sprintf("name%d", i), "value")}))
	}
	if list, err := fs.EAs(ctx, d); err != nil || len(list) != 10 {
		e.Errorf("%d extended attributes, %v", len(list), err)
	}
}
