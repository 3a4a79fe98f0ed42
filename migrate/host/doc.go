// Package host is the agent behind `lunless host run`: it makes a machine a host of
// VMs, whose homes lie on shares or in local folders.
//
// An agent takes a VM only by its ownership record (smbstore.Record), in an epoch
// of its own, opens its disks with that epoch's fence, serves them to QEMU over NBD
// on a unix socket, and watches the guest. It may be ended and started again, in
// order or not, while the guests run: their I/O waits meanwhile, and goes on where
// it was. Nothing but the record decides whose a VM is; the agent's own state only
// says which VMs it had.
//
// Agent is the server's side, Client is how commands reach it.
package host
