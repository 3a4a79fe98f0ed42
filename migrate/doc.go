// Package migrate moves virtual machines. Storage moves the home of a VM that
// does not run, LiveStorage that of one whose disks are in use in this process.
//
// A migration in the order of its phases, with the file each is in:
//
//	queued      manager.go     until its turn, where a Manager runs several
//	planning    plan.go        what the home holds
//	copying     copy.go        to the destination, journalled; of disks in use livecopy.go
//	verifying   verify.go      both sides read again and compared
//	switching   switch.go      through the ownership records, see there; live: liveswitch.go
//	keeping     clean.go       the time of grace, if there is one
//	cleaning    clean.go       the source removed, then the journal
//
// How fast it copies is up to pace.go: pauses, limits, the requests in flight, and
// the guard of the guest's latency (guard.go).
//
// The journal lies in the destination's home (journal.go). It tells Resume how
// far the job came and decides nothing: who owns the VM is what the records say.
package migrate
