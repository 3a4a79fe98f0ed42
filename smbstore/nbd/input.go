package nbd

import (
	"io"
)

// inputSize is what a connection reads ahead: many small requests, with their data.
const inputSize = 64 << 10

// input is a connection's receive side with what was read ahead. Only the
// connection's reader uses it.
type input struct {
	src  io.Reader
	buf  []byte
	r, w int // what is read ahead is buf[r:w]
}

func newInput(src io.Reader) *input { return &input{src: src, buf: make([]byte, inputSize)} }

// copy is an input with the same content.
func (in *input) copy() *input {
	c := newInput(in.src)
	c.w = copy(c.buf, in.buf[in.r:in.w])
	return c
}

func (in *input) buffered() int { return in.w - in.r }

// need has the next n bytes in the buffer, n at most inputSize. io.EOF if the
// peer ended before the first of them.
func (in *input) need(n int) error {
	if in.buffered() >= n {
		return nil
	}
	if in.r == in.w {
		in.r, in.w = 0, 0
	} else if in.r+n > len(in.buf) {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	for in.buffered() < n {
		m, err := in.src.Read(in.buf[in.w:])
		in.w += m
		if err != nil && in.buffered() < n {
			if err == io.EOF && in.buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// next returns the next n bytes, which need has brought. They are good until the
// next call of need.
func (in *input) next(n int) []byte {
	p := in.buf[in.r : in.r+n : in.r+n]
	in.r += n
	return p
}

// readFull fills p.
func (in *input) readFull(p []byte) error {
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	if n == len(p) {
		return nil
	}
	_, err := io.ReadFull(in.src, p[n:])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// skip drops the next n bytes.
func (in *input) skip(n int) error {
	for n > 0 {
		if in.buffered() == 0 {
			if err := in.need(1); err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
		c := min(n, in.buffered())
		in.r += c
		n -= c
	}
	return nil
}
