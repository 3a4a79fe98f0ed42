// Package client is an SMB 2.0.2 to 3.1.1 client for what virtual machines need of
// a share: share modes, byte-range locks, write-through, leases, control codes,
// and handles that outlive their connection (durable, resilient, persistent).
//
//	c, err := client.Dial(ctx, client.Config{Addr: "fs1:445", Credentials: cred})
//	t, err := c.TreeConnect(ctx, "vms")
//	f, err := t.Create(ctx, `web1\disk0.vhdx`, client.CreateOptions{Access: …, Durable: client.Persistent})
//	n, err := f.ReadAt(p, off)
//
// A Client is one session on a server, over one connection or several (channels).
// When all of them are lost it logs on anew, naming its old session for the server
// to end (MS-SMB2 3.2.4.2.3), connects to its shares again, reclaims the handles
// that the server kept (MS-SMB2 3.2.4.4) and sends again what had no answer, marked
// as a replay under a new channel sequence number, so that the server carries out
// no request of the old connection after that (MS-SMB2 3.3.5.2.10). A File whose
// handle the server did not keep gives a *HandleLostError from then on.
//
// All exported methods may be called concurrently, but for those that say
// otherwise. A context that ends cancels the request at the server too; memory
// that was passed in is no longer used once a call has returned. What became of a
// change that was cancelled is not known.
//
// Lock order: Client.mu, Tree.mu, File.mu, conn.mu; leaseTable.mu and session.mu
// are taken last and alone.
package client
