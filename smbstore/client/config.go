package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"time"

	"lunless/smbstore/smb2"
)

// Credentials are who logs on. String never shows the password.
type Credentials struct {
	User, Domain, Password string
}

// String is DOMAIN\user.
func (c Credentials) String() string {
	if c.Domain != "" {
		return c.Domain + `\` + c.User
	}
	return c.User
}

// GoString keeps %#v from showing the password.
func (c Credentials) GoString() string { return c.String() }

// Config says where to connect, as whom, and what to insist on. Only Addr and
// Credentials are needed.
type Config struct {
	Addr  string   // host:port
	Addrs []string // further addresses of the same server, host:port, for channels and reconnects
	// ServerName is the name in the paths of shares; Addr's host if empty.
	ServerName  string
	Credentials Credentials
	// ClientGUID identifies this client to the server for as long as its handles
	// shall live; random if zero. No two Clients share one at a time, unless they
	// mean to share leases.
	ClientGUID smb2.GUID

	MinDialect smb2.Dialect // 2.0.2 if zero
	MaxDialect smb2.Dialect // 3.1.1 if zero
	// RequireSigning demands signed messages; without, they are signed where the
	// server requires it.
	RequireSigning bool
	// Encrypt demands encryption; without, messages are encrypted where server or
	// share require it. It needs SMB 3.
	Encrypt bool
	// Signing and Ciphers are what 3.1.1 offers, best first; AES-128-GMAC and
	// AES-128-GCM lead if empty.
	Signing []smb2.SigningAlgorithm
	Ciphers []smb2.Cipher

	// Channels is how many connections the session is spread over where the server
	// does so too (default 1, at most 32).
	Channels int
	// MaxCredits is how many requests of up to 64 KiB may be outstanding on a
	// connection (default 512, at most 8192).
	MaxCredits int
	// Depth is how many requests a large transfer keeps outstanding (default 8, at
	// most 16).
	Depth int
	// RequestTimeout is how long a connection may stay silent with requests
	// outstanding before it counts as lost (default 30 s). Half-way the server is
	// asked whether it is there, so that slow requests do not end a connection.
	RequestTimeout time.Duration
	// ReconnectTimeout bounds how long operations wait for a lost server, from when
	// it was lost (default 60 s). Past it each asks once and fails, until the server
	// answers again.
	ReconnectTimeout time.Duration

	// LeaseBreak is told of each lease or oplock that the server breaks, after it
	// was acknowledged; it must not call into the Client. It may be nil.
	LeaseBreak func(LeaseBreak)
	Logger     *slog.Logger // nil discards
	// DialFunc makes a connection; net.Dialer's if nil.
	DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)
}

// LeaseBreak is one lease or oplock broken by the server.
type LeaseBreak struct {
	Key      smb2.GUID // of a lease
	FileID   smb2.FileID
	From, To smb2.LeaseState // of a lease, or what an oplock level comes to
}

const (
	maxChannels = 32
	maxCredits  = 8192
)

func (c Config) withDefaults() (Config, error) {
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return c, fmt.Errorf("smb client: address %q: %w", c.Addr, err)
	}
	if c.ServerName == "" {
		c.ServerName = host
	}
	if c.ClientGUID.IsZero() {
		_, _ = rand.Read(c.ClientGUID[:]) // never fails (crypto/rand)
	}
	orDefault(&c.MinDialect, smb2.Dialect202)
	orDefault(&c.MaxDialect, smb2.Dialect311)
	if len(dialects(c.MinDialect, c.MaxDialect)) == 0 {
		return c, fmt.Errorf("smb client: no dialect from %v to %v", c.MinDialect, c.MaxDialect)
	}
	if c.Encrypt && c.MaxDialect < smb2.Dialect300 {
		return c, fmt.Errorf("smb client: encryption needs SMB 3.0, at most %v is allowed", c.MaxDialect)
	}
	if len(c.Signing) == 0 {
		c.Signing = []smb2.SigningAlgorithm{smb2.SigningAESGMAC, smb2.SigningAESCMAC}
	}
	if len(c.Ciphers) == 0 {
		c.Ciphers = []smb2.Cipher{smb2.CipherAES128GCM, smb2.CipherAES128CCM, smb2.CipherAES256GCM, smb2.CipherAES256CCM}
	}
	orDefault(&c.Channels, 1)
	c.Channels = min(max(c.Channels, 1), maxChannels)
	orDefault(&c.MaxCredits, 512)
	c.MaxCredits = min(max(c.MaxCredits, 1), maxCredits)
	orDefault(&c.Depth, 8)
	c.Depth = min(max(c.Depth, 1), maxDepth)
	orDefault(&c.RequestTimeout, 30*time.Second)
	orDefault(&c.ReconnectTimeout, time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.DialFunc == nil {
		d := &net.Dialer{KeepAlive: 10 * time.Second}
		c.DialFunc = d.DialContext
	}
	return c, nil
}

func orDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// dialects lists the known dialects of a range, oldest first.
func dialects(from, to smb2.Dialect) []smb2.Dialect {
	var list []smb2.Dialect
	for _, d := range []smb2.Dialect{smb2.Dialect202, smb2.Dialect210, smb2.Dialect300, smb2.Dialect302, smb2.Dialect311} {
		if from <= d && d <= to {
			list = append(list, d)
		}
	}
	return list
}
