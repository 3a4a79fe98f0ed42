package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"lunless/smbstore"
)

// JournalName is the journal's name in the destination's home.
const JournalName = ".lunless-migration.json"

// maxJournal bounds a journal, in bytes.
const maxJournal = 64 << 20

// Journal tells how far a job came. It is replaced in one step, and says of a
// file only what is on stable storage there.
type Journal struct {
	Version     int               `json:"version"` // 1
	Job         string            `json:"job"`
	Kind        Kind              `json:"kind"`
	Phase       Phase             `json:"phase"`
	Source      smbstore.Location `json:"source"`
	Destination smbstore.Location `json:"destination"`
	VM          string            `json:"vm"`    // GUID
	Epoch       uint64            `json:"epoch"` // the source's when the job started
	Host        string            `json:"host"`
	PID         int               `json:"pid"`
	Process     string            `json:"process"` // as smbstore.Process gives it
	Started     time.Time         `json:"started"`
	Updated     time.Time         `json:"updated"`
	Folders     []string          `json:"folders"`
	Files       []*FileState      `json:"files"`
	Error       string            `json:"error,omitempty"` // why the last run ended
	KeepSource  bool              `json:"keepSource,omitempty"`
	Grace       time.Duration     `json:"grace,omitempty"`    // ns
	KeptUntil   time.Time         `json:"keptUntil,omitzero"` // when the grace that has begun ends
}

// FileState is one file of the plan.
type FileState struct {
	Name     string    `json:"name"` // in the home
	Size     int64     `json:"size"` // bytes
	ModTime  time.Time `json:"modTime"`
	Copied   int64     `json:"copied"` // bytes from the start that are at the destination
	Verified bool      `json:"verified,omitempty"`
	// Role is what a live migration makes of the file: see the constants. What it
	// copies as one has none.
	Role string `json:"role,omitempty"`
	// Disk is the size in bytes of a disk that is mirrored, and Left what its copy
	// lacked of it when the journal was written.
	Disk int64 `json:"disk,omitempty"`
	Left int64 `json:"left,omitempty"`
}

// Roles of files.
const (
	roleMirrored = "mirrored" // a disk in use
	roleLeft     = "left"     // not needed at the destination
)

// total is the plan's size in bytes.
func (j *Journal) total() int64 {
	var n int64
	for _, f := range j.Files {
		switch {
		case f.Role == roleMirrored && f.Disk > 0:
			n += f.Disk
		case f.Role != roleLeft:
			n += f.Size
		}
	}
	return n
}

func (j *Journal) file(name string) *FileState {
	for _, f := range j.Files {
		if f.Name == name {
			return f
		}
	}
	return nil
}

// running tells whether somebody is at the job: the process that wrote the journal
// last still runs, and if it is this one, the job is under way in it.
func (j *Journal) running() bool {
	if j.Process == "" || smbstore.Process(j.PID) != j.Process {
		return false
	}
	return j.PID != os.Getpid() || isClaimed(j.Job)
}

// claimed has the ids of the jobs that this process is at.
var claimed sync.Map

// claim makes the job this caller's in this process, until release is called:
// ErrJobRunning if it is another's.
func claim(job string) (release func(), err error) {
	if _, there := claimed.LoadOrStore(job, true); there {
		return nil, fmt.Errorf("job %s, this process: %w", job, ErrJobRunning)
	}
	return func() { claimed.Delete(job) }, nil
}

func isClaimed(job string) bool {
	_, yes := claimed.Load(job)
	return yes
}

// status is the job as its journal has it.
func (j *Journal) status() Status {
	s := Status{ID: j.Job, Kind: j.Kind, Phase: j.Phase, Source: j.Source, Destination: j.Destination,
		Started: j.Started, Total: j.total(), Error: j.Error}
	for _, f := range j.Files {
		switch {
		case f.Role == roleMirrored && f.Disk > 0:
			s.Done += f.Disk - f.Left
		case j.Phase != Verifying:
			s.Done += f.Copied
		case f.Verified:
			s.Done += f.Size
		}
	}
	return s
}

// adopt makes the journal this process's.
func (j *Journal) adopt() {
	j.PID, j.Error = os.Getpid(), ""
	j.Process = smbstore.Process(j.PID)
}

// write replaces the journal in the destination's home.
func (j *Journal) write(dst smbstore.Store) error {
	b, err := j.encode()
	if err != nil {
		return err
	}
	if err := smbstore.WriteFile(dst, JournalName, b); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func (j *Journal) encode() ([]byte, error) {
	j.Updated = time.Now().UTC().Round(0)
	b, err := json.MarshalIndent(j, "", " ")
	return append(b, '\n'), err
}

// progressWriter writes the journal now and then while something is copied, beside
// that: it is for people, and nothing waits for a destination that does not answer.
type progressWriter struct {
	journal *Journal
	dst     smbstore.Store
	every   time.Duration
	last    time.Time
	writing chan struct{} // holds one value while it is written
}

func (j *Journal) progress(dst smbstore.Store) *progressWriter {
	return &progressWriter{j, dst, journalEvery, time.Now(), make(chan struct{}, 1)}
}

// tell writes the journal if the last time is a while ago. Nobody else may change the
// journal meanwhile.
func (p *progressWriter) tell() {
	if time.Since(p.last) < p.every {
		return
	}
	select {
	case p.writing <- struct{}{}:
	default:
		return
	}
	p.last = time.Now()
	b, err := p.journal.encode()
	if err != nil {
		<-p.writing
		return
	}
	go func() {
		_ = smbstore.WriteFile(p.dst, JournalName, b) // whether it can be written the next phase tells
		<-p.writing
	}()
}

// wait waits until nothing is being written: what the journal becomes next, or its
// removal, must not be overtaken. A nil one never wrote.
func (p *progressWriter) wait() {
	if p != nil {
		p.writing <- struct{}{}
		<-p.writing
	}
}

// readJournal reads a home's journal: ErrNoJob if it has none.
func readJournal(dst smbstore.Store) (*Journal, error) {
	b, err := smbstore.ReadFile(dst, JournalName, maxJournal)
	if errors.Is(err, smbstore.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dst.Location(), ErrNoJob)
	}
	if err != nil {
		return nil, err
	}
	j, err := parseJournal(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dst.Location().Join(JournalName), err)
	}
	return j, nil
}

// parseJournal reads and checks a journal. Errors wrap ErrBadJournal.
func parseJournal(b []byte) (*Journal, error) {
	var j Journal
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadJournal, err)
	}
	bad := func(format string, args ...any) (*Journal, error) {
		return nil, fmt.Errorf("%w: %s", ErrBadJournal, fmt.Sprintf(format, args...))
	}
	switch {
	case j.Version != 1:
		return bad("version %d", j.Version)
	case j.Job == "" || j.VM == "" || j.Epoch == 0 || j.Host == "":
		return bad("no job, VM, epoch or host")
	case j.Kind != KindStorage && j.Kind != KindLiveStorage:
		return bad("kind %q", j.Kind)
	case j.Source == smbstore.Location{} || j.Destination == smbstore.Location{}:
		return bad("no source or destination")
	case !slices.Contains([]Phase{Planning, Copying, Verifying, Switching, Cleaning, Cancelling}, j.Phase):
		return bad("phase %q", j.Phase)
	}
	for _, f := range j.Files {
		if f == nil {
			return bad("an empty file entry")
		}
		if f.Size < 0 || f.Copied < 0 || f.Copied > f.Size || f.Left < 0 || f.Left > f.Disk || !inHome(f.Name) {
			return bad("file %q", f.Name)
		}
	}
	for _, d := range j.Folders {
		if !inHome(d) {
			return bad("folder %q", d)
		}
	}
	return &j, nil
}

// inHome accepts names that stay in a home.
func inHome(name string) bool {
	for c := range strings.SplitSeq(name, "/") {
		if c == "" || c == "." || c == ".." || strings.ContainsAny(c, "\\\x00") {
			return false
		}
	}
	return true
}
