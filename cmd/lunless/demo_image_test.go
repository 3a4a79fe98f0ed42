package main

import (
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore/block"
)

func TestDemoImageReadsBack(t *testing.T) {
	name := filepath.Join(t.TempDir(), "image")
	const fsSize, size = 256 << 20, 320 << 20
	want, err := makeDemoImage(t.Context(), name, fsSize, size, "../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(want) < demoBulkN+10 {
		t.Errorf("only %d files", len(want))
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := block.NewRaw(block.NewLocal(f), block.RawOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := checkDemoFiles(t.Context(), dev, fsSize, want); err != nil {
		t.Fatal(err)
	}
	for name := range want { // one changed digest must be noticed
		d := want[name]
		d[0] ^= 1
		want[name] = d
		break
	}
	if checkDemoFiles(t.Context(), dev, fsSize, want) == nil {
		t.Error("a changed file was not noticed")
	}
}
