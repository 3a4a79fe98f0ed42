// Package admin is how an administrator reaches a share node: its
// configuration file, the catalogue of shares in its data folder, metrics.
package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/pelletier/go-toml/v2"

	"lunless/shares"
)

// Config is the file `lunless serve --config` reads. Every key may be left out.
type Config struct {
	Listen     []string `toml:"listen"`      // host:port; default 0.0.0.0:445
	Data       string   `toml:"data"`        // accounts, catalogue, state
	Metrics    string   `toml:"metrics"`     // host:port of /metrics; empty: none
	MinDialect string   `toml:"min_dialect"` // 2.0.2, 2.1, 3.0, 3.0.2, 3.1.1; default 3.0
	Signing    string   `toml:"signing"`     // required (default) or enabled
	Encrypt    bool     `toml:"encrypt"`     // every session must be encrypted
	ServerName string   `toml:"server_name"` // NetBIOS name shown to clients; default the host's
	// Interfaces are the addresses that clients are told they may use for further
	// connections of a session; default: those of this machine that it listens on.
	Interfaces []netip.Addr `toml:"interfaces"`
	// SessionLifetime is after how many seconds a client has to log on again; 0: never.
	SessionLifetime int `toml:"session_lifetime"`

	Log    Log     `toml:"log"`
	Limits Limits  `toml:"limits"`
	Shares []Share `toml:"share"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `toml:"level"`  // debug, info (default), warn, error
	Format string `toml:"format"` // text (default) or json
}

// Limits bound what clients may take; 0 is the server's default.
type Limits struct {
	Connections int `toml:"connections"`
	Credits     int `toml:"credits"` // a connection
	// ClientConnections is how many connections one client address may have.
	ClientConnections int `toml:"client_connections"`
	// ClientOpens is how much one client address may have open.
	ClientOpens int `toml:"client_opens"`
	// FailedLogons is how many failed log-ons of one client address are answered at
	// once; further ones wait longer and longer. Less than 0: no limit.
	FailedLogons int `toml:"failed_logons"`
}

// Share is one share as configured.
type Share struct {
	Name                  string `toml:"name" json:"name"`
	Path                  string `toml:"path" json:"path"` // the folder it serves
	Comment               string `toml:"comment" json:"comment,omitempty"`
	ReadOnly              bool   `toml:"read_only" json:"read_only,omitempty"`
	Encrypt               bool   `toml:"encrypt" json:"encrypt,omitempty"`
	ContinuouslyAvailable bool   `toml:"continuously_available" json:"continuously_available,omitempty"`

	// AccessBased lists to each user only what he may read.
	AccessBased bool `toml:"access_based_enumeration" json:"access_based_enumeration,omitempty"`
	// Grants say who may use the share, and how; without any, every account may
	// do everything.
	Grants []Grant `toml:"grant" json:"grant,omitempty"`
}

// Errors of configurations.
var (
	ErrBadShare   = errors.New("not a valid share")
	ErrShareTaken = errors.New("there is a share of that name")
	ErrNoShare    = errors.New("no such share")
)

// LoadConfig reads a TOML file. Unknown keys are errors: a misspelt `encrypt`
// must not leave a share open.
func LoadConfig(name string) (Config, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return Config{}, fmt.Errorf("cannot read configuration: %w", err)
	}
	return ParseConfig(name, b)
}

// ParseConfig is LoadConfig for a file's content.
func ParseConfig(name string, b []byte) (Config, error) {
	var c Config
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		var syntax *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			row, _ := strict.Errors[0].Position()
			return Config{}, fmt.Errorf("configuration %s, line %d: unknown key %s", name, row, strings.Join(strict.Errors[0].Key(), "."))
		case errors.As(err, &syntax):
			row, column := syntax.Position()
			return Config{}, fmt.Errorf("configuration %s, line %d, column %d: %w", name, row, column, err)
		}
		return Config{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	if err := c.Check(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	return c, nil
}

// maxServerName is how long a NetBIOS name can be, in bytes.
const maxServerName = 15

// Check refuses what no node could run with; what is left out is fine.
func (c Config) Check() error {
	for _, l := range append(slices.Clone(c.Listen), c.Metrics) {
		if err := checkAddress(l); l != "" && err != nil {
			return err
		}
	}
	if _, err := parseDialect(c.MinDialect); err != nil {
		return err
	}
	if s := shares.Signing(c.Signing); s != "" && s != shares.SigningRequired && s != shares.SigningEnabled {
		return fmt.Errorf("no signing %q: there are required and enabled", c.Signing)
	}
	if len(c.ServerName) > maxServerName || strings.ContainsAny(c.ServerName, " \t\"/\\[]:|<>+=;,?*") {
		return fmt.Errorf("no server name %q: a NetBIOS name has up to %d characters, no spaces and none of \" / \\ [ ] : | < > + = ; , ? *", c.ServerName, maxServerName)
	}
	var level slog.Level
	if c.Log.Level != "" && level.UnmarshalText([]byte(c.Log.Level)) != nil {
		return fmt.Errorf("no log level %q: there are debug, info, warn and error", c.Log.Level)
	}
	if f := c.Log.Format; f != "" && f != "text" && f != "json" {
		return fmt.Errorf("no log format %q: there are text and json", f)
	}
	if c.Limits.Connections < 0 || c.Limits.Credits < 0 || c.Limits.ClientConnections < 0 || c.Limits.ClientOpens < 0 || c.SessionLifetime < 0 {
		return errors.New("a limit is negative")
	}
	_, err := Merge(c.Shares)
	return err
}

func checkAddress(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is no host:port: %w", s, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q is no host:port: the port is to be a number from 0 to 65535", s)
	}
	return nil
}

// ParseShare reads NAME=PATH[,abe][,ca][,encrypt][,ro].
func ParseShare(s string) (Share, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok {
		return Share{}, fmt.Errorf("%w: %q: want NAME=PATH[,abe][,ca][,encrypt][,ro]", ErrBadShare, s)
	}
	share := Share{Name: name}
	words := strings.Split(rest, ",")
	share.Path = words[0]
	for _, w := range words[1:] {
		switch w {
		case "abe":
			share.AccessBased = true
		case "encrypt":
			share.Encrypt = true
		case "ca":
			share.ContinuouslyAvailable = true
		case "ro":
			share.ReadOnly = true
		default:
			return Share{}, fmt.Errorf("%w: %q: unknown property %q, there are abe, ca, encrypt and ro", ErrBadShare, s, w)
		}
	}
	return share, share.Check()
}

// Check refuses what no client could name or no server could serve. Names
// follow MS-SRVS 2.2.4.23 and what Windows forbids in a UNC path.
func (s Share) Check() error {
	switch {
	case s.Name == "":
		return fmt.Errorf("%w: it has no name", ErrBadShare)
	case len(utf16.Encode([]rune(s.Name))) > 80:
		return fmt.Errorf("%w: %s: its name is longer than 80 characters", ErrBadShare, s.Name)
	case strings.ContainsAny(s.Name, "\"\\/[]:|<>+=;,?*") || strings.ContainsFunc(s.Name, func(r rune) bool { return r < 0x20 }):
		return fmt.Errorf("%w: %q: its name holds a character that is not allowed", ErrBadShare, s.Name)
	case strings.EqualFold(s.Name, "IPC$"):
		return fmt.Errorf("%w: the name IPC$ is the server's own", ErrBadShare)
	case s.Path == "":
		return fmt.Errorf("%w: %s: it has no path", ErrBadShare, s.Name)
	}
	for _, g := range s.Grants {
		if err := g.check(); err != nil {
			return fmt.Errorf("share %s: %w", s.Name, err)
		}
	}
	return nil
}

// CheckPath sees to it that the share's folder is there.
func (s Share) CheckPath() error {
	st, err := os.Stat(s.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("share %s: folder %s does not exist: make it, or correct the path", s.Name, s.Path)
	case err != nil:
		return fmt.Errorf("share %s: %w", s.Name, err)
	case !st.IsDir():
		return fmt.Errorf("share %s: %s is not a folder", s.Name, s.Path)
	}
	return nil
}

// CheckApart sees to it that the share does not hold the data folder: whoever is
// let into the share could read the accounts' password hashes, and add accounts.
func (s Share) CheckApart(data string) error {
	share, err := os.Stat(s.Path)
	if err != nil {
		return fmt.Errorf("share %s: %w", s.Name, err)
	}
	dir, err := filepath.Abs(data)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	for {
		if st, err := os.Stat(dir); err == nil && os.SameFile(st, share) {
			return fmt.Errorf("%w: %s: %s holds the data folder %s, where the passwords are: keep one out of the other",
				ErrBadShare, s.Name, s.Path, data)
		}
		above := filepath.Dir(dir)
		if above == dir {
			return nil
		}
		dir = above
	}
}

// Merge joins shares from several sources; two of one name (but for case) are
// an error, since which of them a client gets must not be chance.
func Merge(sources ...[]Share) ([]Share, error) {
	var all []Share
	for _, source := range sources {
		for _, s := range source {
			if err := s.Check(); err != nil {
				return nil, err
			}
			if i := find(all, s.Name); i >= 0 {
				return nil, fmt.Errorf("%w: %s serves both %s and %s", ErrShareTaken, s.Name, all[i].Path, s.Path)
			}
			all = append(all, s)
		}
	}
	return all, nil
}

func find(shares []Share, name string) int {
	return slices.IndexFunc(shares, func(s Share) bool { return strings.EqualFold(s.Name, name) })
}
