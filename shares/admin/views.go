package admin

import (
	"fmt"
	"math"
	"time"

	"lunless/shares"
	"lunless/smbstore/smb2"
)

// Session is a session as `lunless session list --json` shows it.
type Session struct {
	ID        string    `json:"id"` // hexadecimal
	User      string    `json:"user"`
	Client    string    `json:"client_guid"`
	Dialect   string    `json:"dialect"`
	Signed    bool      `json:"signed"`    // every message must be
	Encrypted bool      `json:"encrypted"` // every message must be
	Cipher    string    `json:"cipher"`    // for what is encrypted
	Signing   string    `json:"signing"`   // for what is signed
	Since     time.Time `json:"since"`
	Expires   time.Time `json:"expires,omitzero"`
	Channels  []Channel `json:"channels"`
	Shares    []string  `json:"shares"`
	Opens     int       `json:"opens"`
	Waits     []Wait    `json:"waits,omitempty"`
}

// Channel is one connection of a session.
type Channel struct {
	Client  string    `json:"client"` // host:port
	Server  string    `json:"server"`
	Since   time.Time `json:"since"`
	LastUse time.Time `json:"last_use"`
}

// Wait is a request that has not been answered for a while, and what it waits for:
// lock, break, change, disk or other.
type Wait struct {
	Command string  `json:"command"`
	For     string  `json:"for"`
	Path    string  `json:"path,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Open is an open as `lunless open list --json` shows it.
type Open struct {
	ID        string    `json:"id"`                // hexadecimal
	Session   string    `json:"session,omitempty"` // of none while it is disconnected
	User      string    `json:"user"`
	Client    string    `json:"client,omitempty"`
	Share     string    `json:"share"`
	Path      string    `json:"path"`
	Directory bool      `json:"directory,omitempty"`
	Access    string    `json:"access"`
	Sharing   string    `json:"sharing"` // what others may do meanwhile
	Caching   string    `json:"caching"` // oplock or lease, as RWH
	Lease     string    `json:"lease,omitempty"`
	Durable   string    `json:"durable"`
	Until     time.Time `json:"until,omitzero"` // while it is disconnected
	Locks     []Lock    `json:"locks,omitempty"`
	Waits     []Wait    `json:"waits,omitempty"`
}

// Lock is a byte-range lock.
type Lock struct {
	Offset    uint64 `json:"offset"`
	Length    uint64 `json:"length"`
	Exclusive bool   `json:"exclusive"`
}

func sessionOf(i *shares.SessionInfo) Session {
	s := Session{
		ID: fmt.Sprintf("%08x", i.ID), User: i.User, Client: i.Client.String(), Dialect: i.Dialect.String(),
		Signed: i.Signed, Encrypted: i.Encrypted, Cipher: i.Cipher.String(), Signing: signingName(i.Signing),
		Since: i.Since, Expires: i.Expires, Shares: i.Shares, Opens: i.Opens, Channels: []Channel{}, Waits: waitsOf(i.Waits),
	}
	if s.Shares == nil {
		s.Shares = []string{}
	}
	for _, c := range i.Channels {
		s.Channels = append(s.Channels, Channel(c))
	}
	return s
}

func signingName(a smb2.SigningAlgorithm) string {
	switch a {
	case smb2.SigningHMACSHA256:
		return "HMAC-SHA256"
	case smb2.SigningAESCMAC:
		return "AES-CMAC"
	case smb2.SigningAESGMAC:
		return "AES-GMAC"
	}
	return fmt.Sprint(uint16(a))
}

func waitsOf(list []shares.WaitInfo) (out []Wait) {
	for _, w := range list {
		out = append(out, Wait{w.Command, w.For, w.Path, math.Round(w.Age.Seconds()*10) / 10})
	}
	return out
}

func openOf(i *shares.OpenInfo) Open {
	o := Open{
		ID: fmt.Sprintf("%016x", i.ID), User: i.User, Client: i.Client, Share: i.Share, Path: i.Path, Directory: i.Directory,
		Access: accessName(i.Access), Sharing: sharingName(i.Sharing), Caching: i.Oplock, Lease: i.Lease,
		Durable: i.Durable, Until: i.Until, Waits: waitsOf(i.Waits),
	}
	if i.Session != 0 {
		o.Session = fmt.Sprintf("%08x", i.Session)
	}
	for _, l := range i.Locks {
		o.Locks = append(o.Locks, Lock(l))
	}
	return o
}

// accessName says what an open may do with a file's data and name: read, write,
// delete; its other rights count as attributes.
func accessName(a smb2.AccessMask) string {
	return letters([]letter{
		{a&smb2.FileReadData != 0, 'r'}, {a&(smb2.FileWriteData|smb2.FileAppendData) != 0, 'w'},
		{a&smb2.Delete != 0, 'd'}, {a&smb2.FileExecute != 0, 'x'},
	}, "attributes")
}

func sharingName(s smb2.ShareAccess) string {
	return letters([]letter{
		{s&smb2.FileShareRead != 0, 'r'}, {s&smb2.FileShareWrite != 0, 'w'}, {s&smb2.FileShareDelete != 0, 'd'},
	}, "none")
}

type letter struct {
	on   bool
	name byte
}

func letters(list []letter, none string) string {
	var b []byte
	for _, l := range list {
		if l.on {
			b = append(b, l.name)
		}
	}
	if len(b) == 0 {
		return none
	}
	return string(b)
}
