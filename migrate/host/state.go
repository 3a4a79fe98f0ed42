package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lunless/smbstore"
)

// Folders and files in an agent's data folder.
const (
	lockName    = "agent.lock"
	controlName = "host.sock"
	vmsDir      = "vms"
	runDir      = "run"
	nbdName     = "nbd.sock" // in a VM's folder below runDir
)

// kept is what the agent remembers of a VM: `vms/<GUID>.json` in its data folder. It
// decides nothing about whose the VM is.
type kept struct {
	Version  int               `json:"version"` // 1
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Location smbstore.Location `json:"location"`
	// Running: a QEMU may be there, with the disks as they were opened in Epoch.
	Running bool   `json:"running"`
	Epoch   uint64 `json:"epoch,omitempty"`
	// Ended is how it ended when it ran last; "" if in order.
	Ended string `json:"ended,omitempty"`
	// Patience and Report are the VM's policy in trouble.
	Patience int  `json:"patience,omitempty"`
	Report   bool `json:"report,omitempty"`
	// Moving is the home that a migration moves the VM to; zero without one. Left are
	// those of migrations that were cut, or failed, which are to be seen to.
	Moving smbstore.Location   `json:"moving,omitzero"`
	Left   []smbstore.Location `json:"left,omitempty"`
	// Starting: a start is under way, and the guest not known to run.
	Starting bool `json:"starting,omitempty"`
	// Doing is the operation under way that leaves something if it is cut.
	Doing string `json:"doing,omitempty"`
	// Merging: the home may have images of removed checkpoints to be merged.
	Merging bool `json:"merging,omitempty"`
	// Followed is the migration by whose word the VM lies at Location.
	Followed string `json:"followed,omitempty"`
	// Standing: an agent has paused the guest, or was about to, and it shall go on.
	Standing bool `json:"standing,omitempty"`
	// Saved: the home has a state to continue the guest from.
	Saved bool `json:"saved,omitempty"`
}

func (a *Agent) keptFile(id string) string { return filepath.Join(a.cfg.Data, vmsDir, id+".json") }

// runtimeDir is the VM's folder for sockets, console log and QEMU's record.
func (a *Agent) runtimeDir(id string) string { return filepath.Join(a.cfg.Data, runDir, id) }

// keep writes down what there is to remember.
func (a *Agent) keep(k *kept) error {
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(a.keptFile(k.ID), append(b, '\n'))
}

// loadKept reads what an earlier agent kept. A VM's file that cannot be read is in
// unread, by the VM's GUID: the others do not wait for it.
func (a *Agent) loadKept() (list []*kept, unread map[string]error, err error) {
	entries, err := os.ReadDir(filepath.Join(a.cfg.Data, vmsDir))
	if err != nil {
		return nil, nil, err
	}
	unread = map[string]error{}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		b, err := os.ReadFile(a.keptFile(id))
		k := &kept{}
		if err == nil {
			err = json.Unmarshal(b, k)
		}
		if err == nil && (k.Version != 1 || k.ID != id) {
			err = fmt.Errorf("version %d of VM %q", k.Version, k.ID)
		}
		if err != nil {
			unread[id] = fmt.Errorf("%s: %w: a guest of that VM which runs here gets no answers from its disks: end its QEMU and remove the file, or mend it, and restart the agent", a.keptFile(id), err)
			continue
		}
		list = append(list, k)
	}
	return list, unread, nil
}

// replaceFile writes a file in one step, on stable storage when it returns.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name()) //nolint:errcheck // it is garbage by its name
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
