package shares

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// Errors of a configuration, wrapped with what they are about.
var (
	ErrShareName   = errors.New("share name is not valid")
	ErrShareExists = errors.New("share exists already")
	ErrNoShare     = errors.New("no such share")
	ErrNoFS        = errors.New("share has no file system")
	ErrNoState     = errors.New("the server keeps no state on disk: give it a folder for that")
	ErrDialects    = errors.New("dialect range is not valid")
	ErrNoAccounts  = errors.New("no account store")
)

// Signing says when messages must be signed.
type Signing string

const (
	SigningRequired Signing = "required" // always: the default
	SigningEnabled  Signing = "enabled"  // where the client wants it
)

// Share is one share of the server.
type Share struct {
	Name     string // up to 80 UTF-16 code units; looked up without regard to case
	Path     string // for people: logs and listings
	FS       fs.FS  // what it holds; not closed by the server
	Comment  string
	ReadOnly bool // no open gets more than read access
	Encrypt  bool // only encrypted requests (MS-SMB2 3.3.1.6 Share.EncryptData)
	// AccessBased leaves out of listings what the user may not read (MS-SMB2
	// 3.3.1.6 Share.DoAccessBasedDirectoryEnumeration).
	AccessBased bool
	// Security says who may connect, and the most any open may be granted (MS-SMB2
	// 3.3.1.6 Share.ConnectSecurity). Nil: every account, everything. It must not
	// be changed.
	Security *fscc.SecurityDescriptor

	// ContinuouslyAvailable (MS-SMB2 3.3.1.6 Share.IsCA) lets clients have persistent
	// handles, and what is acknowledged is on stable storage, data and names alike. It
	// needs Config.StateDir: ErrNoState without.
	ContinuouslyAvailable bool
}

// Limits bound what clients may take. A zero field means its default.
type Limits struct {
	Connections       int // at a time; default 10000
	ClientConnections int // of one client address; default 2048
	Strangers         int // connections of one client address without an authenticated session; default 256
	ClientOpens       int // of one client address, durable ones without a session among them; default 3/4 of AllOpens
	AllWorkers        int // Workers of all connections, each of which has at least one; default 4096
	ClientWorkers     int // Workers of one client address, each connection's first not counted; default 1024
	AllInFlight       int // InFlight of all connections; one that holds less than its share does not wait; default 1 GiB
	AllAsync          int // Async of all connections; default 65536
	// Guesses is how many failed log-ons of a client address are answered at once;
	// further ones have to wait for longer and longer. Default 5; less than 0: no limit.
	Guesses  int
	Credits  int           // a connection (MS-SMB2 3.3.1.2); default 8192
	Workers  int           // data requests of a connection that wait for disks at a time; default 64
	InFlight int           // bytes those may hold in buffers; default 64 MiB
	Sessions int           // a connection; default 1024
	Trees    int           // a session; default 4096
	Opens    int           // a session; default 65536
	AllOpens int           // of all sessions; default half of the files this process may have open
	Async    int           // requests of a connection that have gone async; default 4096
	Transfer int           // bytes of one READ, WRITE or transaction; default and most 8 MiB
	Login    time.Duration // from accept to the first authenticated session; default 10 s
	Idle     time.Duration // without a request and without an open file; default 15 min
	Break    time.Duration // for a client to acknowledge an oplock or lease break; default 35 s (MS-SMB2 3.3.2.1, note 217)
	Durable  time.Duration // a durable open is kept without its client, where that asks for no other time; default 60 s
	Write    time.Duration // a response may take to be taken off our hands; default 30 s
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	defTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Connections, 10000)
	def(&l.ClientConnections, 2048)
	def(&l.Strangers, 256)
	def(&l.AllWorkers, 4096)
	def(&l.ClientWorkers, 1024)
	def(&l.AllInFlight, 1<<30)
	def(&l.AllAsync, 1<<16)
	if l.Guesses == 0 {
		l.Guesses = 5
	}
	def(&l.Credits, 8192)
	def(&l.Workers, 64)
	def(&l.InFlight, 64<<20)
	def(&l.Sessions, 1024)
	def(&l.Trees, 4096)
	def(&l.Opens, 65536)
	def(&l.AllOpens, openFiles()/2)
	def(&l.ClientOpens, l.AllOpens-l.AllOpens/4)
	def(&l.Async, 4096)
	def(&l.Transfer, maxTransfer)
	l.Credits = min(max(l.Credits, 16), 32768)
	l.Transfer = min(max(l.Transfer, 64<<10), maxTransfer)
	defTime(&l.Login, 10*time.Second)
	defTime(&l.Idle, 15*time.Minute)
	defTime(&l.Break, 35*time.Second)
	defTime(&l.Durable, 60*time.Second)
	defTime(&l.Write, 30*time.Second)
	return l
}

// openFiles is how many files the process may have open; connections and what an
// operation opens for a moment are among them.
func openFiles() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return int(min(r.Cur, math.MaxInt32))
}

// Config is what a Server is made from.
type Config struct {
	Name     string // the server's NetBIOS name; default LUNLESS
	GUID     smb2.GUID
	Shares   []Share
	Accounts *accounts.Store
	// StateDir is the folder in which the server keeps what must outlive it. One
	// server at a time can serve continuously available shares with it. Empty: all
	// state ends with the server.
	StateDir string
	// State is how the file there is used; Memory and Logger are the server's.
	State      state.BoltOptions
	MinDialect smb2.Dialect // default 3.0
	MaxDialect smb2.Dialect // default 3.1.1
	Signing    Signing      // default SigningRequired
	Encrypt    bool         // only encrypted sessions (MS-SMB2 3.3.1.5 EncryptData)
	// NoAnonymous refuses anonymous sessions. Without it they may reach IPC$,
	// which lists the shares, and nothing else.
	NoAnonymous bool
	// SessionLifetime is how long a session may be used before its client has to
	// authenticate again; 0: for ever, as NTLM has it (MS-SMB2 3.3.5.5.3).
	SessionLifetime time.Duration
	// Interfaces are the addresses that clients are told they may reach the server
	// by (FSCTL_QUERY_NETWORK_INTERFACE_INFO); none: those of this machine that it
	// listens on.
	Interfaces []netip.Addr

	Logger     *slog.Logger          // default: none
	Registerer prometheus.Registerer // default: a registry of the server's own
	Limits     Limits
}

// dialects that the server speaks, best first.
var dialects = []smb2.Dialect{smb2.Dialect311, smb2.Dialect302, smb2.Dialect300, smb2.Dialect210, smb2.Dialect202}

func (c *Config) setDefaults() error {
	if c.Accounts == nil {
		return ErrNoAccounts
	}
	if c.Name == "" {
		c.Name = "LUNLESS"
	}
	if c.MinDialect == 0 {
		c.MinDialect = smb2.Dialect300
	}
	if c.MaxDialect == 0 {
		c.MaxDialect = smb2.Dialect311
	}
	if c.MinDialect > c.MaxDialect {
		return fmt.Errorf("%w: from %v to %v", ErrDialects, c.MinDialect, c.MaxDialect)
	}
	switch c.Signing {
	case "":
		c.Signing = SigningRequired
	case SigningRequired, SigningEnabled:
	default:
		return fmt.Errorf("signing %q: want %q or %q", c.Signing, SigningRequired, SigningEnabled)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	c.Limits = c.Limits.withDefaults()
	return nil
}

// check refuses what cannot be served.
func (s *Share) check() error {
	switch n := len(utf16.Encode([]rune(s.Name))); {
	case n == 0 || n > 80 || strings.ContainsAny(s.Name, "\"/\\[]:|<>+=;,*?\x00"):
		return fmt.Errorf("share %q: %w: 1 to 80 characters, none of \" / \\ [ ] : | < > + = ; , * ?", s.Name, ErrShareName)
	case strings.EqualFold(s.Name, ipcName):
		return fmt.Errorf("share %q: %w: the name is the server's own", s.Name, ErrShareName)
	case s.FS == nil:
		return fmt.Errorf("share %q: %w", s.Name, ErrNoFS)
	}
	return nil
}
