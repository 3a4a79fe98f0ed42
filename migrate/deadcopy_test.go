package migrate

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// A process that is killed with a disk's copy open on a continuously available share
// leaves nothing there that keeps the undoing of its migration waiting, whatever the
// disk's format is.
func TestCancelOfDeadCopy(t *testing.T) {
	server := storetest.StartLunless(t)
	for _, format := range []smbstore.Format{smbstore.VHDX, smbstore.Raw} {
		t.Run(string(format), func(t *testing.T) {
			a := t.TempDir()
			_, slot, _ := liveVM(t, a, format, 8<<20)
			must(t, slot.Close())
			to := server.Location("to " + string(format))
			to.Share = "ca"
			must(t, os.Mkdir(filepath.Join(server.Dir, "ca", to.Path), 0o755))
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), envChild+"=live", envFrom+"="+filepath.Join(a, "vm"), envTo+"="+to.String(), envKill+"=live-copied:1:0",
				smbstore.PasswordVariable+"="+storetest.Password)
			if out, err := cmd.CombinedOutput(); !killed(err) {
				t.Fatalf("it was not killed: %v\n%s", err, out)
			}
			if err := undo(t.Context(), to.Join("vm"), Options{ToOptions: server.Options()}); err != nil {
				t.Error(err)
			}
			if exists(server.Dir, "ca", to.Path, "vm") {
				t.Error("the copy is there still")
			}
		})
	}
}
