// Package nbd exports block devices over the NBD protocol, to QEMU, nbdcopy, the
// kernel. It serves the fixed newstyle negotiation and, in transmission, simple
// and structured replies, FUA, flush, trim, write zeroes, cache, and block status
// with base:allocation.
//
//	s := nbd.NewServer(nbd.Options{Log: log})
//	e, err := s.Add(nbd.ExportOptions{Name: "disk0", Device: slot})
//	go s.Serve(ctx, listener)
//	…
//	s.Shutdown(ctx) // finishes what is in flight; then the device may be closed
//
// A unix socket's file says who may connect. Any other listener needs TLS, which
// says it by certificates, or Options.AllowPlain.
//
// # Standby
//
// An export made without a device, or held with Export.Hold, is in standby:
// clients connect and are told size and features, their requests wait. Nothing
// times out here, and nothing fails: what is not read yet stays with the client.
// Export.Release lets requests go on, with the same device or another of the same
// size; Export.Fail ends the wait with an error. To exchange the device under an
// export in use:
//
//	err := e.Hold(ctx)    // nothing is at the device from here on
//	…
//	err = e.Release(next) // or nil: the one it had
//
// # What clients may rely on
//
// A flush covers every write, zero and trim that was answered before it was
// asked for, on any connection: all of them use the one device, without a cache
// between, and block.Device.Flush promises that. So CAN_MULTI_CONN is told. A
// request is answered once, by what the device said; one that was cancelled is
// not answered at all.
//
// A client that lost its connection makes another and repeats what was not
// answered. The new connection's requests wait until those of connections whose
// client is gone have left the device: an old write never lands on a newer one.
//
// # What clients cannot do
//
// A connection has a bounded number of requests in flight, and bounded memory for
// them (Limits); what goes beyond is not read. Each connection can always have one
// request, so those that hold shared memory hold nobody else up, and no lock is
// held while a peer is waited for. A negotiation is bounded in time and size.
package nbd
