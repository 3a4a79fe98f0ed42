// Package auth is how a client proves who it is to a server: SPNEGO (RFC 4178,
// MS-SPNG) and NTLMv2 (MS-NLMP), both sides. It passes tokens and does no I/O.
//
// A server makes one Acceptor a log-on and a client one Initiator; each is for
// one goroutine. NTLMv1 and LM are recognised and refused; an anonymous log-on is
// recognised and reported as such, never as a user.
package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxToken is the longest token looked at, bytes. Longer ones are ErrMalformed.
const MaxToken = 64 << 10

// Errors of an exchange. Whatever ends it ends the Acceptor or Initiator too.
var (
	// ErrMalformed is wrapped by every error about a token that does not parse, or
	// that does not belong where it came.
	ErrMalformed = errors.New("auth: malformed token")
	// ErrNTLMv1 means that the client offered only NTLMv1, LM or LMv2.
	ErrNTLMv1 = errors.New("auth: NTLMv1 and LM are not accepted")
	// ErrNoMechanism means that client and server have no mechanism in common.
	ErrNoMechanism = errors.New("auth: no common mechanism")
	// ErrIntegrity means that a message integrity code or channel binding is wrong:
	// someone between client and server changed the exchange.
	ErrIntegrity = errors.New("auth: exchange was tampered with")
	// ErrLogonFailure is what a client may be told about the two below, which are
	// for the server's own records and both are this error.
	ErrLogonFailure  = errors.New("auth: logon failure")
	ErrWrongPassword = fmt.Errorf("%w: wrong password", ErrLogonFailure)
	ErrUnknownUser   = fmt.Errorf("%w: unknown user", ErrLogonFailure)
)

// LogonError is a log-on that ended after the client had said who it is. It
// unwraps to why; the names are the client's claim, for the server's records.
type LogonError struct {
	Domain, User, Workstation string
	Err                       error
}

func (e *LogonError) Error() string {
	// Names of a client that proved nothing are cut: a token has room for 64 KiB of them.
	return fmt.Sprintf("log-on of %.64q, domain %.64q, from %.64q: %v", e.User, e.Domain, e.Workstation, e.Err)
}

func (e *LogonError) Unwrap() error { return e.Err }

// Acceptor is the server's side of one log-on. Accept takes the client's token
// and returns the answer, which is sent whether done or not unless there is an
// error. SessionKey and Identity are meaningful once done.
type Acceptor interface {
	Accept(in []byte) (out []byte, done bool, err error)
	SessionKey() []byte
	Identity() Identity
}

// Initiator is the client's side of one log-on. The first Init takes what the
// server offered in its NEGOTIATE response, or nothing; later ones take the
// server's answers, the last one included. done means that the server has no
// more to say, or need not.
type Initiator interface {
	Init(in []byte) (out []byte, done bool, err error)
	SessionKey() []byte
}

// Mechanism is an authentication mechanism that SPNEGO can negotiate.
type Mechanism struct {
	OID     OID
	Aliases []OID // other names it answers to, echoed as the client spelled them
	Accept  func() MechAcceptor
}

// MechAcceptor is what SPNEGO needs of a mechanism besides the exchange itself.
type MechAcceptor interface {
	Acceptor
	Integrity
}

// MechInitiator is the client's side of the same.
type MechInitiator interface {
	Initiator
	Integrity
}

// Integrity protects SPNEGO's list of mechanisms against change on the way.
type Integrity interface {
	// HasIntegrity reports whether the finished exchange can do the other two.
	HasIntegrity() bool
	// MIC is the integrity code of a message that this side sends.
	MIC(msg []byte) []byte
	// VerifyMIC reports whether mic is the other side's code of msg, in constant time.
	VerifyMIC(msg, mic []byte) bool
}

// Identity is who logged on.
type Identity struct {
	Domain      string // as the client gave them; names are not case-sensitive
	User        string
	Workstation string
	TargetName  string // service principal the client meant to reach, if it said
	Anonymous   bool   // nobody: User is empty and Account nil
	Account     any    // Credential.Account
}

// Credential is what the server knows about a user.
type Credential struct {
	NTHash  [16]byte // MD4 of the password in UTF-16LE: see NTHash
	Denied  error    // why even the right password does not do, nil if it does; told to nobody else
	Account any      // passed on to Identity
}

// Config describes a server to its acceptors. It may be shared by any number.
type Config struct {
	ComputerName string // NetBIOS name, at most 15 characters
	DomainName   string // NetBIOS domain; a server outside any gives its ComputerName
	DNSComputer  string // may be empty, as may the next two
	DNSDomain    string
	DNSForest    string

	// Lookup finds a user by the name the client gave. It returns ErrUnknownUser,
	// or an error wrapping it, for a name that is none; other errors end the
	// log-on as they are. It is called once a log-on, from Accept.
	Lookup func(domain, user string) (Credential, error)

	// ChannelBindings, if not nil, is the gss_channel_bindings_struct of the
	// transport (RFC 2744 3.11); then clients must have bound to it.
	ChannelBindings []byte

	// Mechanisms are offered before NTLM, in this order.
	Mechanisms []Mechanism

	Now  func() time.Time // time.Now if nil
	Rand io.Reader        // crypto/rand.Reader if nil
}

func (c *Config) now() time.Time { return orNow(c.Now) }

func (c *Config) random(b []byte) error { return readRandom(c.Rand, b) }

func orNow(f func() time.Time) time.Time {
	if f == nil {
		return time.Now()
	}
	return f()
}

func readRandom(r io.Reader, b []byte) error {
	if r == nil {
		r = rand.Reader
	}
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("auth: random numbers: %w", err)
	}
	return nil
}

// malformed is ErrMalformed with what is wrong.
func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, a...))
}
