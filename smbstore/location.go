package smbstore

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// DefaultPort is the TCP port of SMB.
const DefaultPort = 445

// Location names a folder or file on a share, or on this machine. It never
// holds a password. The zero Location is not valid.
type Location struct {
	Host  string // "" for a local location
	Port  int    // 0 is DefaultPort
	User  string // "" if the location names none; DOMAIN\user or user
	Share string
	Path  string // below the share, '/' between components, "" for its root; for a local location, the OS path
}

// ParseLocation reads smb://[user@]host[:port]/share/path, \\host\share\path or
// a local path. Errors: ErrBadLocation, ErrPasswordInLocation, ErrBadName.
func ParseLocation(s string) (Location, error) {
	switch {
	case s == "":
		return Location{}, fmt.Errorf("%w: it is empty", ErrBadLocation)
	case strings.HasPrefix(strings.ToLower(s), "smb://"):
		return parseURL(s)
	case strings.HasPrefix(s, `\\`):
		return parseUNC(s)
	case strings.Contains(s, "://"):
		if hasPassword(s[strings.Index(s, "://")+3:]) {
			return Location{}, ErrPasswordInLocation
		}
		return Location{}, fmt.Errorf("%w: %q", ErrBadLocation, s)
	}
	abs, err := filepath.Abs(s)
	if err != nil {
		return Location{}, fmt.Errorf("%w: %q: %v", ErrBadLocation, s, err)
	}
	return Location{Path: abs}, nil
}

func parseURL(s string) (Location, error) {
	rest := s[len("smb://"):]
	authority, tail, _ := strings.Cut(rest, "/")
	var l Location
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user := authority[:at]
		authority = authority[at+1:]
		if strings.Contains(user, ":") {
			return Location{}, ErrPasswordInLocation
		}
		u, err := url.PathUnescape(user)
		if strings.Contains(u, ":") {
			return Location{}, ErrPasswordInLocation
		}
		if err != nil || u == "" || strings.ContainsAny(u, ":\x00") {
			return Location{}, fmt.Errorf("%w: bad user name in %q", ErrBadLocation, s)
		}
		l.User = strings.Replace(u, ";", `\`, 1)
	}
	if err := l.setAuthority(authority); err != nil {
		if hasPassword(rest) { // with a / in it
			return Location{}, ErrPasswordInLocation
		}
		return Location{}, fmt.Errorf("%w: %q", err, s)
	}
	p, err := url.PathUnescape(tail)
	if err != nil {
		return Location{}, fmt.Errorf("%w: bad escape in %q", ErrBadLocation, s)
	}
	if err := l.setPath(p); err != nil {
		return Location{}, fmt.Errorf("%w: %q", err, s)
	}
	return l, nil
}

// hasPassword tells a text that must not be shown: it has user:password@ in it.
func hasPassword(s string) bool {
	user, _, ok := cutLast(s, "@")
	return ok && strings.Contains(user, ":")
}

func parseUNC(s string) (Location, error) {
	host, tail, _ := strings.Cut(s[2:], `\`)
	if hasPassword(s) {
		return Location{}, ErrPasswordInLocation
	}
	if strings.ContainsAny(host, "@/:") {
		return Location{}, fmt.Errorf("%w: a UNC path has no user or port: %q", ErrBadLocation, s)
	}
	var l Location
	if err := l.setAuthority(host); err != nil {
		return Location{}, fmt.Errorf("%w: %q", err, s)
	}
	if err := l.setPath(strings.ReplaceAll(tail, `\`, "/")); err != nil {
		return Location{}, fmt.Errorf("%w: %q", err, s)
	}
	return l, nil
}

func (l *Location) setAuthority(a string) error {
	host, port := a, ""
	if h, p, err := net.SplitHostPort(a); err == nil {
		host, port = h, p
	} else if strings.HasPrefix(a, "[") && strings.HasSuffix(a, "]") {
		host = a[1 : len(a)-1]
	} else if strings.Contains(a, ":") {
		return ErrBadLocation
	}
	if host == "" || strings.ContainsAny(host, " \\/\x00?#@") {
		return ErrBadLocation
	}
	l.Host = host
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return ErrBadLocation
		}
		l.Port = int(n)
	}
	if l.Port == DefaultPort {
		l.Port = 0
	}
	return nil
}

func (l *Location) setPath(p string) error {
	share, rest, _ := strings.Cut(strings.Trim(p, "/"), "/")
	if share == "" {
		return ErrBadLocation
	}
	rest = strings.Trim(rest, "/")
	if err := checkName(share); err != nil {
		return err
	}
	if rest != "" {
		if err := checkName(rest); err != nil {
			return err
		}
	}
	l.Share, l.Path = share, rest
	return nil
}

// IsLocal tells a folder of this machine from a share.
func (l Location) IsLocal() bool { return l.Host == "" }

// Addr is host:port as net.Dial takes it.
func (l Location) Addr() string {
	port := l.Port
	if port == 0 {
		port = DefaultPort
	}
	return net.JoinHostPort(l.Host, strconv.Itoa(port))
}

// SameServer reports whether both lie on one server under one user, so that a
// session to one serves the other.
func (l Location) SameServer(o Location) bool {
	return strings.EqualFold(l.Addr(), o.Addr()) && l.User == o.User
}

// Equal reports whether both name the same place, whoever the user is.
func (l Location) Equal(o Location) bool {
	if l.IsLocal() || o.IsLocal() {
		return l.IsLocal() == o.IsLocal() && filepath.Clean(l.Path) == filepath.Clean(o.Path)
	}
	return strings.EqualFold(l.Addr(), o.Addr()) &&
		strings.EqualFold(l.Share, o.Share) && strings.EqualFold(l.Path, o.Path)
}

// Contains reports whether o is l or lies below it.
func (l Location) Contains(o Location) bool {
	for {
		if l.Equal(o) {
			return true
		}
		up := o.Dir()
		if up == o {
			return false
		}
		o = up
	}
}

// Join gives the location of a name below l; '/' separates components.
func (l Location) Join(elem ...string) Location {
	if l.IsLocal() {
		l.Path = filepath.Join(append([]string{l.Path}, elem...)...)
		return l
	}
	l.Path = strings.Trim(path.Join(append([]string{l.Path}, elem...)...), "/")
	return l
}

// Base is the last component: of the path, or the share's name at its root.
func (l Location) Base() string {
	if l.IsLocal() {
		return filepath.Base(l.Path)
	}
	if l.Path == "" {
		return l.Share
	}
	return path.Base(l.Path)
}

// Dir is the folder l lies in; the root is its own.
func (l Location) Dir() Location {
	if l.IsLocal() {
		l.Path = filepath.Dir(l.Path)
		return l
	}
	l.Path = strings.TrimPrefix(path.Dir("/"+l.Path), "/")
	return l
}

// IsRoot reports whether l is a share's root, or a file system's.
func (l Location) IsRoot() bool {
	if l.IsLocal() {
		return filepath.Dir(l.Path) == l.Path
	}
	return l.Path == ""
}

// String gives the text ParseLocation reads back: smb:// for a share, the path
// for a local location.
func (l Location) String() string {
	if l.IsLocal() {
		return l.Path
	}
	var b strings.Builder
	b.WriteString("smb://")
	if l.User != "" {
		b.WriteString(escape(strings.Replace(l.User, `\`, ";", 1), ";"))
		b.WriteByte('@')
	}
	switch {
	case l.Port != 0 && l.Port != DefaultPort:
		b.WriteString(net.JoinHostPort(l.Host, strconv.Itoa(l.Port)))
	case strings.Contains(l.Host, ":"):
		b.WriteString("[" + l.Host + "]")
	default:
		b.WriteString(l.Host)
	}
	b.WriteByte('/')
	b.WriteString(escape(l.Share, " "))
	if l.Path != "" {
		b.WriteByte('/')
		b.WriteString(escape(l.Path, "/ "))
	}
	return b.String()
}

// escape percent-encodes what would change how the text is read; spaces stay,
// because people read locations and Hyper-V's folders have them.
func escape(s, keep string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' || c == '@' || c == '?' || c == '#' || c == ':' || c == '\\' || c < 0x20 || c == 0x7f ||
			(c == ';' || c == '/') && strings.IndexByte(keep, c) < 0 {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// MarshalText makes a Location its String in JSON.
func (l Location) MarshalText() ([]byte, error) {
	if l == (Location{}) {
		return nil, nil
	}
	return []byte(l.String()), nil
}

// UnmarshalText is ParseLocation; an empty text is the zero Location.
func (l *Location) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*l = Location{}
		return nil
	}
	v, err := ParseLocation(string(b))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// checkName accepts names relative to a store: components separated by '/',
// none of them empty, "." or "..", without what no share can hold
// (MS-FSCC 2.1.5).
func checkName(name string) error {
	if len(name) > 4096 {
		return fmt.Errorf("%w: longer than 4096 bytes", ErrBadName)
	}
	for c := range strings.SplitSeq(name, "/") {
		if c == "" || c == "." || c == ".." || len(c) > 255*3 || strings.ContainsAny(c, "\x00\\:*?\"<>|") {
			return fmt.Errorf("%w: %q", ErrBadName, name)
		}
		for _, r := range c {
			if r < 0x20 {
				return fmt.Errorf("%w: %q", ErrBadName, name)
			}
		}
	}
	return nil
}
