// Package vhdx reads and writes virtual hard disks of version 2 (MS-VHDX), fixed
// and dynamic, as a block.Device over a block.File.
//
// A Disk keeps this order, so that a loss of power at any moment loses nothing
// that was flushed: data goes to its block first; Flush makes it stable, then a
// log entry with the changed pages of metadata, and only then
// are those pages written in their places. The log's next entry waits until they
// are stable there. Room that a block gave up is used again only after the log
// says so. Headers change one at a time, each made stable before the other.
package vhdx
