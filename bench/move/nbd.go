package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// guest writes to an NBD export as a guest's disk would be written to: 4 KiB at
// random places among its data, so many at a time on connections of their own, with
// a flush now and then.
type guest struct {
	socket, export string
	depth          int
	written        atomic.Int64
	worst          atomic.Int64 // ns, of one write with its flush
}

const (
	guestBlock = 4096
	guestFlush = 64 // writes to a flush
)

// run writes until ctx ends.
func (g *guest) run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make(chan error, g.depth)
	for i := range g.depth {
		wg.Go(func() {
			if err := g.worker(ctx, rand.New(rand.NewPCG(1, uint64(i)))); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func (g *guest) worker(ctx context.Context, rnd *rand.Rand) error {
	c, size, err := dialNBD(g.socket, g.export)
	if err != nil {
		return err
	}
	defer c.Close()
	p := make([]byte, guestBlock)
	for i := 1; ctx.Err() == nil; i++ {
		binary.LittleEndian.PutUint64(p, rnd.Uint64())
		start := time.Now()
		run := rnd.Int64N(size/(2*dataRun)) * 2 * dataRun
		err := request(c, 1, uint64(run+rnd.Int64N(dataRun/guestBlock)*guestBlock), p)
		if err == nil && i%guestFlush == 0 {
			err = request(c, 3, 0, nil)
		}
		if err != nil {
			return err
		}
		took := int64(time.Since(start))
		for old := g.worst.Load(); took > old && !g.worst.CompareAndSwap(old, took); old = g.worst.Load() {
		}
		g.written.Add(1)
	}
	return nil
}

// dialNBD connects to an export, without options: fixed newstyle, EXPORT_NAME.
func dialNBD(socket, export string) (net.Conn, int64, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, 0, err
	}
	hello := make([]byte, 18)
	if _, err := io.ReadFull(c, hello); err != nil {
		return nil, 0, err
	}
	ask := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	ask = append(ask, "IHAVEOPT"...)
	ask = binary.BigEndian.AppendUint32(ask, 1)
	ask = binary.BigEndian.AppendUint32(ask, uint32(len(export)))
	if _, err := c.Write(append(ask, export...)); err != nil {
		return nil, 0, err
	}
	reply := make([]byte, 10)
	if _, err := io.ReadFull(c, reply); err != nil {
		return nil, 0, fmt.Errorf("export %s: %w", export, err)
	}
	return c, int64(binary.BigEndian.Uint64(reply)), nil
}

// request makes one and waits for its simple reply.
func request(c net.Conn, command uint16, off uint64, p []byte) error {
	head := make([]byte, 0, 28+len(p))
	head = binary.BigEndian.AppendUint32(head, 0x25609513)
	head = binary.BigEndian.AppendUint16(head, 0)
	head = binary.BigEndian.AppendUint16(head, command)
	head = binary.BigEndian.AppendUint64(head, 1)
	head = binary.BigEndian.AppendUint64(head, off)
	head = binary.BigEndian.AppendUint32(head, uint32(len(p)))
	if _, err := c.Write(append(head, p...)); err != nil {
		return err
	}
	reply := make([]byte, 16)
	if _, err := io.ReadFull(c, reply); err != nil {
		return err
	}
	if e := binary.BigEndian.Uint32(reply[4:]); e != 0 {
		return errors.New("the export answered with error " + fmt.Sprint(e))
	}
	return nil
}
