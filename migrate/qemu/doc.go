// Package qemu starts, finds again and drives VMs in QEMU, over QMP (package qmp).
//
//	Config       what a VM is          config.go, checked in validate.go
//	Resolve      decides the rest      resolve.go, with what binary.go and kvm.go found out
//	argv         QEMU's command line   argv.go
//	Start        runs it               start.go, process.go; record.go is what is written down
//	Attach       finds it again        start.go
//	Machine      drives it             machine.go, events.go, stats.go
//	Save         writes its state      save.go; the container is state.go
//
// A VM's disks are NBD exports on unix sockets, of whoever serves them.
package qemu
