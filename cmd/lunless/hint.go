package main

import (
	"errors"
	"io/fs"
	"net"

	"golang.org/x/sys/unix"

	"lunless/migrate"
	"lunless/shares/accounts"
	"lunless/smbstore"
	"lunless/smbstore/vhdx"
)

// hints say what to do about errors whose text does not. The first that matches
// is printed below the error; the more particular come first.
var hints = []struct {
	err  error
	next string
}{
	{smbstore.ErrLogon, "check the user before the @ and the password in LUNLESS_PASSWORD or the --credentials file; `lunless user list` on the server shows its accounts"},
	{smbstore.ErrNoShare, "`lunless share list` on the server, or `smbclient -L`, shows its shares"},
	{smbstore.ErrSharing, "stop the VM or the program that has the file open, then try again"},
	{smbstore.ErrNoSpace, "make room there, or choose another location; an interrupted migration goes on with `lunless migrate resume`"},
	{smbstore.ErrNotOwner, "`lunless vm show` says who owns it; where that is wrong, see `lunless migrate resolve --help`"},
	{smbstore.ErrNotHome, "`lunless vm list --storage LOCATION` shows the homes at a location"},
	{migrate.ErrNoJob, "`lunless migrate list --storage LOCATION` shows the unfinished ones"},
	{migrate.ErrSamePlace, "name the folder the home shall lie in, another than the one it lies in now"},
	{migrate.ErrJobRunning, "wait for it, or interrupt the `lunless migrate` that runs it"},
	{smbstore.ErrParentChanged, "a parent that was written to by itself no longer fits: restore it, or see `lunless disk rebase --help`"},
	{smbstore.ErrTailInUse, "make the partitions in the guest smaller first, or choose a larger size"},
	{vhdx.ErrCorrupt, "`lunless disk check` names what is damaged and where"},
	{accounts.ErrExists, "`lunless user password` sets the password of an account"},
	{accounts.ErrNoUser, "`lunless user list` shows the accounts of the data folder"},
	{accounts.ErrDamaged, "restore the file from a backup, or remove it and make the accounts again"},
	{unix.ECONNREFUSED, "nothing listens there: see that the server runs and that host and port are right"},
	{smbstore.ErrUnreachable, "see that the server runs, that host and port are right and that no firewall is between"},
	{unix.ENOSPC, "make room there, or choose another location"},
	{fs.ErrExist, "choose another name, or remove what is there"},
	{fs.ErrPermission, "see who you are and what this user may do there; a read-only share takes no changes, and a folder with open files stays where it is"},
}

// nextStep is what to do about an error, "" if its text says that or nothing is known.
func nextStep(err error) string {
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) {
		return "see that the host's name is right and that it can be resolved here (`getent hosts NAME`)"
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.next
		}
	}
	return ""
}
