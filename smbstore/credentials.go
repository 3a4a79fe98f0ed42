package smbstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// PasswordVariable is the environment variable a password may come from.
const PasswordVariable = "LUNLESS_PASSWORD"

// Credentials are a user's name, domain and password. Its String never shows
// the password.
type Credentials struct {
	User     string
	Domain   string
	Password string
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

// maxCredentials bounds a credentials file, in bytes.
const maxCredentials = 64 << 10

// LoadCredentials reads a file in the format of mount.cifs: lines username=,
// password=, domain= (user=, pass=, dom= are taken too), in any order, '#'
// starting a comment line. A password keeps every character after the '='.
func LoadCredentials(name string) (Credentials, error) {
	f, err := os.Open(name)
	if err != nil {
		return Credentials{}, fmt.Errorf("cannot read credentials: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return Credentials{}, fmt.Errorf("cannot read credentials: %w", err)
	} else if st.Size() > maxCredentials {
		return Credentials{}, fmt.Errorf("cannot read credentials %s: larger than %d bytes", name, maxCredentials)
	}
	var c Credentials
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimLeft(strings.TrimSuffix(sc.Text(), "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return Credentials{}, fmt.Errorf("credentials %s, line %d: want key=value", name, n)
		}
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "username", "user":
			c.setUser(strings.TrimSpace(value))
		case "password", "pass":
			c.Password = value
		case "domain", "dom", "workgroup":
			c.Domain = strings.TrimSpace(value)
		default:
			return Credentials{}, fmt.Errorf("credentials %s, line %d: unknown key %q", name, n, strings.TrimSpace(key))
		}
	}
	if err := sc.Err(); err != nil {
		return Credentials{}, fmt.Errorf("cannot read credentials %s: %w", name, err)
	}
	return c, nil
}

// setUser takes DOMAIN\user, DOMAIN/user or user.
func (c *Credentials) setUser(s string) {
	if i := strings.IndexAny(s, `\/`); i >= 0 {
		c.Domain, c.User = s[:i], s[i+1:]
		return
	}
	c.User = s
}

// ResolveCredentials finds the credentials for l: given ones, then the file's, then the
// location's user with the environment's password, then the prompt. The user of
// the location wins over the file's.
func (o *Options) ResolveCredentials(ctx context.Context, l Location) (Credentials, error) {
	if o.Credentials != nil {
		c := *o.Credentials
		if c.User == "" && l.User != "" {
			c.setUser(l.User)
		}
		return c, nil
	}
	var c Credentials
	if o.CredentialsFile != "" {
		var err error
		if c, err = LoadCredentials(o.CredentialsFile); err != nil {
			return Credentials{}, err
		}
	}
	if l.User != "" {
		c.setUser(l.User)
	}
	if c.User == "" {
		return Credentials{}, fmt.Errorf("%s: no user name: %w", l, ErrNoCredentials)
	}
	if o.CredentialsFile != "" && c.Password != "" {
		return c, nil
	}
	if p, ok := os.LookupEnv(PasswordVariable); ok {
		c.Password = p
		return c, nil
	}
	if o.Prompt != nil {
		p, err := o.Prompt(ctx, l)
		if err != nil {
			return Credentials{}, errors.Join(fmt.Errorf("%s: no password: %w", l, ErrNoCredentials), err)
		}
		c.Password = p
		return c, nil
	}
	return Credentials{}, fmt.Errorf("%s: no password: %w", l, ErrNoCredentials)
}
