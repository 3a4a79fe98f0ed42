// Package qmp is a client of the QEMU Machine Protocol, QEMU's control channel
// (docs/interop/qmp-spec of QEMU): one JSON object a line, both ways, on a unix
// socket.
//
// It is an own one because github.com/digitalocean/go-qemu has commands that no
// context ends and that are not numbered (so that one given up would hand its
// answer to the next), loses events while nobody listens and stops reading
// altogether while a listener is slow.
package qmp
