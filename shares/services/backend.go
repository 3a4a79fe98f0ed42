package services

import (
	"context"

	"lunless/shares/accounts"
)

// Server is what a node says of itself.
type Server struct {
	Name         string // the name clients use, without \\
	Comment      string
	Group        string // domain or workgroup
	VersionMajor uint32 // of the Windows it resembles: 10
	VersionMinor uint32 // 0
}

// Share is a share as it is listed. IPC$ is not among them: it is always there.
type Share struct {
	Name        string // one that ends in $ is listed, and hidden by clients
	Comment     string
	MaxUses     uint32 // connections; 0: no limit
	CurrentUses uint32
	Encrypt     bool
	CA          bool   // continuously available
	Enumerate   bool   // folders list only what the caller may read
	SD          []byte // self-relative security descriptor, or nil
}

// Backend is what the services answer from. Its methods may be called
// concurrently.
type Backend interface {
	Server() Server
	// Shares lists the shares in an order that stays as long as they do.
	Shares(ctx context.Context) ([]Share, error)
	// Accounts are who names and SIDs stand for.
	Accounts() *accounts.Store
}
