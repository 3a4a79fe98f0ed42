package shares

import (
	"errors"
	"fmt"
	"strings"

	"lunless/shares/accounts"
	"lunless/smbstore/auth"
	"lunless/smbstore/fscc"
)

// identity is who an authentication has turned out to be.
type identity struct {
	name  string // for logs, and to tell two sessions' users apart
	token fscc.Token
}

// authConfig describes this server to those who authenticate. It is a
// workgroup's: its own accounts and no domain.
func (srv *Server) authConfig() *auth.Config {
	name := strings.ToUpper(srv.cfg.Name)
	return &auth.Config{
		ComputerName: name, DomainName: name,
		DNSComputer: strings.ToLower(name),
		Lookup:      srv.cfg.Accounts.Credential,
	}
}

// identify finds the account of who has authenticated.
func (srv *Server) identify(id auth.Identity) (identity, error) {
	if id.Anonymous {
		return identity{name: "anonymous", token: accounts.AnonymousToken()}, nil
	}
	user, ok := id.Account.(accounts.User)
	if !ok {
		return identity{}, errNoAccount
	}
	token, err := srv.cfg.Accounts.Token(user.Name)
	if err != nil {
		return identity{}, fmt.Errorf("user %q: %w", user.Name, err)
	}
	return identity{name: user.Name, token: token}, nil
}

var errNoAccount = errors.New("authenticated, but by no account of ours")
