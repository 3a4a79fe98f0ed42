package host

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// site is a storage that a home lies on: a folder, which an agent knows by the server
// that has it, if one has.
type site struct {
	machine, share string // "local" has no shares
	server         *storetest.Server
	dir            string // past all servers
}

func (p site) String() string {
	if p.server == nil {
		return p.machine
	}
	return p.machine + "/" + p.share
}

// location is a folder of the site as the agent names it, path the same past all
// servers.
func (p site) location(folder string) smbstore.Location {
	if p.server == nil {
		return smbstore.Location{Path: p.path(folder)}
	}
	l := p.server.Location(folder)
	l.Share = p.share
	return l
}

func (p site) path(folder string) string { return filepath.Join(p.dir, folder) }

// makeSites starts the servers that the storage of a soak lies on.
func makeSites(t *testing.T, machines ...string) []site {
	var all []site
	for _, m := range machines {
		shares := []string{"vms", "other"}
		var server *storetest.Server
		switch m {
		case "local":
			all = append(all, site{machine: m, dir: t.TempDir()})
			continue
		case "samba":
			server = storetest.StartSamba(t)
		default:
			server, shares = storetest.StartLunless(t), append(shares, "ca")
		}
		for _, s := range shares {
			all = append(all, site{m, s, server, filepath.Join(server.Dir, s)})
		}
	}
	return all
}

// soakRun is one run: a move of a running guest's storage.
type soakRun struct {
	n        int
	what     string // becomes of it: moved, killed (the agent, at the switch) or taken (by another host, meanwhile)
	ways     string // see soakWays
	from, to site
	quiet    bool // the guest does not write meanwhile, so that no flush of its own helps
	flatten  bool
	convert  bool // to the format that it is not: vhd or vhdx
	fixed    bool
	rate     int64 // bytes a second; 0: no limit
	delay    int   // ms of the guest's work before
}

func (r soakRun) String() string {
	s := fmt.Sprintf("run %d: %s, %s to %s", r.n, r.what, r.from, r.to)
	for name, yes := range map[string]bool{"quiet": r.quiet, "flattened": r.flatten, "converted": r.convert, "fixed": r.fixed, "held back": r.rate > 0} {
		if yes {
			s += ", " + name
		}
	}
	return s
}

// group is the run's row in the table.
func (r soakRun) group() string {
	switch r.what {
	case "killed":
		return "agent killed at the switch"
	case "taken":
		return "taken by another host meanwhile"
	}
	return r.ways
}

// soakWays are gone in turn: where a way begins, the one before has ended.
var soakWays = []string{"local to share", "share to share of one server", "server to server", "share to local"}

// goes tells whether a way goes from one site to another.
func goes(way string, from, to site) bool {
	switch way {
	case "local to share":
		return from.server == nil && to.server != nil
	case "share to share of one server":
		return from.server != nil && from.server == to.server && from.share != to.share
	case "server to server":
		return from.server != nil && to.server != nil && from.server != to.server
	case "share to local":
		return from.server != nil && to.server == nil
	}
	return from.server == nil && to.server == nil
}

// guestRuns are how many moves one guest goes through.
const guestRuns = 6

// plannedRuns are n runs, in the groups that one guest goes through. The table's
// kinds come up alike whatever the seed.
func plannedRuns(n int, rnd *rand.Rand, sites []site, only string) [][]soakRun {
	ways := soakWays
	if len(sites) == 1 {
		ways = []string{"local to local"}
	}
	var groups [][]soakRun
	var at site
	flattened := 0
	for i := range n {
		r := soakRun{n: i, what: "moved", ways: ways[i%len(ways)], delay: rnd.IntN(400)}
		switch {
		case only != "":
			r.what = only
		case i%6 == 4:
			r.what = "killed"
		case i%12 == 11:
			r.what = "taken"
		}
		r.quiet = r.what == "killed" && i%4 == 0
		if r.flatten = i%3 == 1 && r.what == "moved"; r.flatten {
			r.convert, r.fixed = flattened%4 < 3, flattened%2 == 1
			flattened++
		}
		if n > 3 && rnd.IntN(3) == 0 {
			r.rate = 64 << 20
		}
		last := len(groups) - 1
		if first := last < 0 || len(groups[last]) == guestRuns || groups[last][len(groups[last])-1].what == "taken"; first {
			groups, last = append(groups, nil), last+1
			at = pick(rnd, sites, func(p site) bool { return leads(r.ways, p, sites) })
		}
		r.from = at
		r.to = pick(rnd, sites, func(p site) bool { return goes(r.ways, r.from, p) })
		groups[last] = append(groups[last], r)
		at = r.to
	}
	return groups
}

func leads(way string, from site, sites []site) bool {
	for _, to := range sites {
		if goes(way, from, to) {
			return true
		}
	}
	return false
}

func pick(rnd *rand.Rand, sites []site, fits func(site) bool) site {
	var all []site
	for _, p := range sites {
		if fits(p) {
			all = append(all, p)
		}
	}
	return all[rnd.IntN(len(all))]
}

// makeFolder makes a folder of a site.
func (p site) makeFolder(t *testing.T, folder string) {
	t.Helper()
	if err := os.MkdirAll(p.path(folder), 0o755); err != nil {
		t.Fatal(err)
	}
}
