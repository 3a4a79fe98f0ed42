// Package guest builds and boots the Linux guest that tests use as a peer: a
// Debian kernel as packaged, busybox, and an init script, in QEMU under TCG.
// The kernel's own SMB client lives there.
package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Spec says what goes into an initramfs.
type Spec struct {
	ModuleDir string            // …/lib/modules/<release>
	Modules   []string          // names; what they depend on is added before them
	Files     map[string][]byte // path in the guest -> content, mode 0755
	Init      []byte            // /init
	Busybox   string            // static binary on the host; "" for /bin/busybox
}

const (
	modeDir     = 0o040755
	modeFile    = 0o100644
	modeProgram = 0o100755
	modeLink    = 0o120777
	modeDevice  = 0o020600
)

// Initramfs returns an uncompressed newc archive. Modules lie in /m as
// NN-name.ko in the order they must be loaded.
func Initramfs(s Spec) ([]byte, error) {
	if s.Busybox == "" {
		s.Busybox = "/bin/busybox"
	}
	busybox, err := os.ReadFile(s.Busybox)
	if err != nil {
		return nil, fmt.Errorf("%w (install busybox-static)", err)
	}
	a := &archive{seen: map[string]bool{}}
	for _, d := range []string{"dev", "proc", "sys", "mnt", "tmp", "run", "etc", "bin"} {
		a.add(d, modeDir, nil, 0, 0)
	}
	a.add("dev/console", modeDevice, nil, 5, 1)
	a.add("dev/null", modeDevice, nil, 1, 3)
	a.add("bin/busybox", modeProgram, busybox, 0, 0)
	a.add("bin/sh", modeLink, []byte("busybox"), 0, 0)
	if err := addModules(a, s.ModuleDir, s.Modules); err != nil {
		return nil, err
	}
	for name, content := range s.Files {
		a.add(name, modeProgram, content, 0, 0)
	}
	a.add("init", modeProgram, s.Init, 0, 0)
	return a.end(), nil
}

// archive writes cpio's "newc" format (cpio(5)).
type archive struct {
	buf  bytes.Buffer
	ino  int
	seen map[string]bool
}

func (a *archive) add(name string, mode int, data []byte, major, minor int) {
	name = strings.Trim(name, "/")
	if dir := path.Dir(name); dir != "." {
		a.add(dir, modeDir, nil, 0, 0)
	}
	if a.seen[name] {
		return
	}
	a.seen[name] = true
	a.ino++
	fmt.Fprintf(&a.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad(4)
	a.buf.Write(data)
	a.pad(4)
}

func (a *archive) pad(to int) {
	for a.buf.Len()%to != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *archive) end() []byte {
	a.add("TRAILER!!!", 0, nil, 0, 0)
	a.pad(512)
	return a.buf.Bytes()
}

func addModules(a *archive, dir string, names []string) error {
	files, err := moduleFiles(dir)
	if err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return err
	}
	var order []string
	var need func(name string) error
	need = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if name == "" || slices.Contains(order, name) {
			return nil
		}
		file, ok := files[name]
		if !ok {
			spelt := strings.ReplaceAll(string(builtin), "-", "_")
			if strings.Contains(spelt, "/"+name+".ko") {
				return nil
			}
			return fmt.Errorf("kernel in %s has no module %s", dir, name)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, d := range dependencies(data) {
			if err := need(d); err != nil {
				return err
			}
		}
		order = append(order, name)
		a.add(fmt.Sprintf("m/%02d-%s.ko", len(order), name), modeFile, data, 0, 0)
		return nil
	}
	for _, n := range names {
		if err := need(n); err != nil {
			return err
		}
	}
	return nil
}

func moduleFiles(dir string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = p
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = errors.New("no .ko files in " + dir)
	}
	return files, err
}

// dependencies reads the depends= entry of a module's .modinfo section, where
// entries are NUL-terminated strings.
func dependencies(module []byte) []string {
	_, rest, ok := bytes.Cut(module, []byte("\x00depends="))
	if !ok {
		return nil
	}
	list, _, _ := bytes.Cut(rest, []byte{0})
	return strings.Split(string(list), ",")
}
