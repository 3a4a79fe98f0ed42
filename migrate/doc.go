// Package migrate moves virtual machines. Storage moves the home of a VM that
// does not run, LiveStorage that of one whose disks are in use in this process.
//
// A migration in the order of its phases, with the file each is in:
//
//	planning    plan.go     what the home holds
//	copying     copy.go     to the destination, journalled (live: mirrored, live.go)
//	verifying   verify.go   both sides read again and compared
//	switching   switch.go   through the ownership records, see there
//	cleaning    clean.go    the source removed, then the journal
//
// The journal lies in the destination's home (journal.go). It tells Resume how
// far the job came and decides nothing: who owns the VM is what the records say.
package migrate
