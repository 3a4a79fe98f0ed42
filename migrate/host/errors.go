package host

import "errors"

// Errors of an agent and its VMs.
var (
	// ErrAgentRunning: another agent runs with the data folder, or has the host's name.
	ErrAgentRunning = errors.New("another host agent is running")
	// ErrNoAgent: no agent runs with the data folder.
	ErrNoAgent = errors.New("no host agent is running with this data folder")
	// ErrNoVM: the host has no VM of that name, and no storage location holds one.
	ErrNoVM = errors.New("no such VM on this host")
	// ErrAmbiguous: several VMs have the name.
	ErrAmbiguous = errors.New("several VMs have that name")
	// ErrTwoHomes: the VM has two homes, and each says that it is it.
	ErrTwoHomes = errors.New("two homes of one VM")
	// ErrOldHome: a home is of a time before the last that this host knows of the VM.
	ErrOldHome = errors.New("the home is older than the VM")
	// ErrRunning: the VM runs, and what was asked needs it to be off.
	ErrRunning = errors.New("the VM is running")
	// ErrNotRunning: the VM does not run, and what was asked needs it to.
	ErrNotRunning = errors.New("the VM is not running")
	// ErrSaved: the guest is saved, and what was asked would make its state useless.
	ErrSaved = errors.New("the VM has a saved state")
	// ErrBusy: another operation on the VM is under way.
	ErrBusy = errors.New("another operation on the VM is under way")
	// ErrForeign: another host owns the VM.
	ErrForeign = errors.New("another host owns the VM")
	// ErrInDoubt: whose the VM is cannot be known now.
	ErrInDoubt = errors.New("whose the VM is cannot be known now")
	// ErrNoMigration: the agent runs no migration of that id.
	ErrNoMigration = errors.New("the host agent has no migration of that id")
	// ErrStopping: the agent is being stopped.
	ErrStopping = errors.New("the host agent is stopping")
)

// VMError says which VM failed to do what, and where.
type VMError struct {
	Op   string // "start"
	VM   string // its name
	Host string
	Err  error
}

func (e *VMError) Error() string {
	return "cannot " + e.Op + " " + e.VM + " on " + e.Host + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *VMError) Unwrap() error { return e.Err }
