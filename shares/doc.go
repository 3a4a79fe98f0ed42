// Package shares is the share service: an SMB 2 and 3 server for the disks of
// virtual machines.
//
// The path of a READ, from the socket to pread:
//
//	receive.go   bytes from the socket, split into frames
//	conn.go      the reader goroutine: decides where each frame is worked on
//	dispatch.go  the command table, and the checks every command goes through
//	read.go      the READ itself, straight into the response buffer
//	fs/io.go     pread
//
// and back through reply.go: header, signature, encryption, and the batch that
// one write sends.
//
// A connection's work is done in three places. READ and WRITE that need not wait
// are handled on the reader goroutine itself, and their responses leave together
// in one write when the input runs dry. Those that may wait for a disk, or are
// large, go to the connection's workers (worker.go). Everything else goes through one
// goroutine a connection, in the order it arrived, so that a slow CREATE never
// holds up the data of another disk.
//
// A session is reached over one connection or several (channel.go, bind.go). What is
// open in it belongs to it: an open counts the requests that use it, whichever
// connection they came by (gate.go), and is closed, or kept for its client, once they
// are through. What waits for somebody else, another client's break or lock, waits in
// a goroutine of its own (async.go); what the server has to tell a client unasked goes
// out beside the responses (notice.go). No client can take what all need (peers.go).
package shares
