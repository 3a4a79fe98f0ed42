package statetest

// Case is a run of operations that has shown a difference once.
type Case struct {
	Name string
	Ops  []Op
	Want string // what the last of them comes to
}

// Cases are those there are.
var Cases = []Case{
	{"durable by the lease of another open (MS-SMB2 3.3.5.9.6)", []Op{
		{Kind: "open", ID: 1, Client: 1, Access: "R", Share: "RWD", Key: 1, Want: "RH"},
		{Kind: "open", ID: 2, Client: 1, Access: "R", Share: "RWD", Key: 1, Want: "R", Handle: "durable"},
	}, "2 open: ok RH"},
	{"taken over from another client than made it (MS-SMB2 3.3.5.9.13)", []Op{
		{Kind: "open", ID: 1, Client: 1, Access: "RW", Oplock: "B", Handle: "durable2", App: 1},
		{Kind: "disconnect", Client: 1},
		{Kind: "reconnect", ID: 1, Client: 2, Wrong: "client"},
		{Kind: "open", ID: 2, Client: 1, Access: "RW", App: 1},
	}, "2 open: ok 0"},
	{"kept from who has it by now (MS-SMB2 3.3.5.9.13)", []Op{
		{Kind: "open", ID: 1, Client: 1, Access: "RW", Oplock: "B", Handle: "durable2", App: 1},
		{Kind: "disconnect", Client: 1},
		{Kind: "reconnect", ID: 1, Client: 2, Wrong: "client"},
		{Kind: "open", ID: 2, Client: 2, Access: "", App: 1},
		{Kind: "open", ID: 3, Client: 2, Access: "D", App: 1},
		{Kind: "ack", ID: 1, Client: 2, To: ""},
	}, "3 open: sharing violation"},
	{"taken over while it is going (MS-SMB2 3.3.5.9.13)", []Op{
		{Kind: "open", ID: 1, Client: 1, Access: "RWD", Share: "RWD", App: 1},
		{Kind: "delete", ID: 1, Client: 1, Pending: true},
		{Kind: "open", ID: 2, Client: 2, Access: "RW", Share: "RWD", App: 1},
	}, "2 open: ok 0"},
	{"claimed as another user (MS-SMB2 3.3.5.9.12)", []Op{
		{Kind: "open", ID: 1, Client: 1, Access: "RW", Oplock: "B", Handle: "durable2"},
		{Kind: "disconnect", Client: 1},
		{Kind: "reconnect", ID: 1, Client: 1, Wrong: "owner"},
	}, "1 reconnect: not the owner"},
	{"goes without an answer to a break (MS-SMB2 3.3.7.1)", []Op{
		{Kind: "open", ID: 1, Client: 1, Access: "RW", Share: "RW", Key: 1, Want: "RW", Handle: "durable2"},
		{Kind: "open", ID: 2, Client: 2, Access: "R", Share: "RW", Key: 2, Want: "RWH", Handle: "durable"},
		{Kind: "disconnect", Client: 1},
	}, "2 open: ok RWH durable"},
	{"goes while it waits for itself (MS-SMB2 3.3.7.1)", []Op{
		{Kind: "open", ID: 1, Client: 1, Access: "RW", Share: "RWD", Oplock: "B", Handle: "persistent"},
		{Kind: "open", ID: 2, Client: 1, Access: "RWD", Share: "RWD", Oplock: "B"},
		{Kind: "disconnect", Client: 1},
		{Kind: "reconnect", ID: 1, Client: 1},
	}, "1 reconnect: ok RWH persistent"},
	{"keeps what it closes another open of (MS-SMB2 3.3.7.1)", []Op{
		{Kind: "open", ID: 1, Client: 1, Access: "D", Share: "RWD", DeleteOnClose: true},
		{Kind: "open", ID: 2, Client: 1, Access: "R", Share: "RWD", Key: 1, Want: "RH", Handle: "durable2"},
		{Kind: "open", ID: 3, Client: 1, Access: "R", Share: "RWD", Key: 1, Want: "RH", Handle: "persistent"},
		{Kind: "open", ID: 4, Client: 1, Access: "R", Share: "RWD", Key: 1, Want: "RH", Handle: "durable2"},
		{Kind: "disconnect", Client: 1},
		{Kind: "reconnect", ID: 2, Client: 1},
	}, "2 reconnect: ok RH breaking durable2"},
}
