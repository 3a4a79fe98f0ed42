package qemu

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"lunless/migrate/qemu/qmp"
)

// A VM's state is QEMU's migration stream in a container of ours: QEMU takes
// flipped bytes for good ones. Integers are little-endian.
//
//	magic    8 bytes
//	version  uint32, 1
//	length   uint32 of the header
//	header   JSON, StateInfo
//	digest   32 bytes
//	frames   kind uint8, stored uint32, raw uint32, stored bytes, digest
//	end      kind 0, the stream's length uint64, digest
//
// Each digest is the SHA-256 of all before it but digests, so that no frame
// reaches QEMU before everything up to there was found whole.
const (
	stateMagic   = "LUNSTATE"
	stateVersion = 1

	frameEnd  = 0
	frameRaw  = 1 // stored as it is
	frameZstd = 2

	chunkSize       = 1 << 20 // bytes of the stream in a frame, at most
	maxStateHeader  = 64 << 10
	stateHeadLength = len(stateMagic) + 8
)

// Errors of reading a state.
var (
	// ErrNotState: the file is something else, or of a later version.
	ErrNotState = errors.New("not a VM's state that this program can read")
	// ErrStateDamaged: bytes were changed or are missing.
	ErrStateDamaged = errors.New("the VM's state is damaged")
	// ErrStateOfOther: the state is of a VM with other virtual hardware.
	ErrStateOfOther = errors.New("the state does not fit the VM")
)

// StateInfo is the header of a state.
type StateInfo struct {
	UUID        uuid.UUID   `json:"uuid"`
	Name        string      `json:"name"`
	MachineType string      `json:"machineType"`
	Accel       Accel       `json:"accel"`
	CPU         string      `json:"cpu"`
	CPUs        int         `json:"cpus"`
	Memory      int64       `json:"memory"` // bytes
	Digest      string      `json:"digest"` // Config.Digest
	QEMU        qmp.Version `json:"qemu"`
	Saved       time.Time   `json:"saved"`
}

func (m *Machine) stateInfo() StateInfo {
	c := &m.config
	return StateInfo{UUID: c.UUID, Name: c.Name, MachineType: c.MachineType, Accel: c.Accel, CPU: c.CPU, CPUs: c.CPUs, Memory: c.Memory,
		Digest: c.Digest(), QEMU: m.Version(), Saved: time.Now().UTC().Round(0)}
}

// fits tells whether a VM can go on with the state.
func (s *StateInfo) fits(c *Config) error {
	type pair struct {
		what       string
		state, has any
	}
	for _, p := range []pair{{"UUID", s.UUID, c.UUID}, {"machine type", s.MachineType, c.MachineType}, {"accelerator", s.Accel, c.Accel},
		{"CPU model", s.CPU, c.CPU}, {"CPUs", s.CPUs, c.CPUs}, {"bytes of memory", s.Memory, c.Memory}} {
		if p.state != p.has {
			return fmt.Errorf("%w: %s: the state has %v, VM %q %v", ErrStateOfOther, p.what, p.state, c.Name, p.has)
		}
	}
	if s.Digest != c.Digest() {
		return fmt.Errorf("%w: VM %q has other disks, network cards or firmware than when it was saved", ErrStateOfOther, c.Name)
	}
	return nil
}

// stateWriter writes the container.
type stateWriter struct {
	w      io.Writer
	sum    hash.Hash
	zstd   *zstd.Encoder
	frame  []byte // of the frame being made
	raw    int64  // bytes of the stream
	stored int64  // bytes of the container
}

func newStateWriter(w io.Writer, info StateInfo) (*stateWriter, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	header, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	s := &stateWriter{w: w, sum: sha256.New(), zstd: encoder}
	head := append([]byte(stateMagic), make([]byte, 8)...)
	binary.LittleEndian.PutUint32(head[len(stateMagic):], stateVersion)
	binary.LittleEndian.PutUint32(head[len(stateMagic)+4:], uint32(len(header)))
	return s, s.put(append(head, header...))
}

// put writes b and the digest so far.
func (s *stateWriter) put(b []byte) error {
	s.sum.Write(b)
	b = s.sum.Sum(b)
	n, err := s.w.Write(b)
	s.stored += int64(n)
	return err
}

// chunk writes a piece of the stream, of chunkSize at most.
func (s *stateWriter) chunk(p []byte) error {
	const head = 9
	s.frame = append(s.frame[:0], make([]byte, head)...)
	s.frame = s.zstd.EncodeAll(p, s.frame)
	s.frame[0] = frameZstd
	if len(s.frame)-head >= len(p) {
		s.frame = append(s.frame[:head], p...)
		s.frame[0] = frameRaw
	}
	binary.LittleEndian.PutUint32(s.frame[1:], uint32(len(s.frame)-head))
	binary.LittleEndian.PutUint32(s.frame[5:], uint32(len(p)))
	s.raw += int64(len(p))
	return s.put(s.frame)
}

func (s *stateWriter) end() error {
	return s.put(binary.LittleEndian.AppendUint64([]byte{frameEnd}, uint64(s.raw)))
}

// stateReader reads the container and hands out only what is whole.
type stateReader struct {
	r     io.Reader
	sum   hash.Hash
	zstd  *zstd.Decoder
	frame []byte
	piece []byte
	raw   uint64
}

func newStateReader(r io.Reader) (*stateReader, StateInfo, error) {
	var info StateInfo
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(chunkSize), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, info, err
	}
	s := &stateReader{r: r, sum: sha256.New(), zstd: decoder}
	head, err := s.get(stateHeadLength)
	if err != nil || string(head[:len(stateMagic)]) != stateMagic {
		return nil, info, errors.Join(ErrNotState, err)
	}
	version, length := binary.LittleEndian.Uint32(head[len(stateMagic):]), binary.LittleEndian.Uint32(head[len(stateMagic)+4:])
	if version != stateVersion || length > maxStateHeader {
		return nil, info, fmt.Errorf("%w: version %d, a header of %d bytes", ErrNotState, version, length)
	}
	header, err := s.get(int(length))
	if err != nil {
		return nil, info, damaged(err)
	}
	header = bytes.Clone(header)
	if err := s.check(); err != nil {
		return nil, info, err
	}
	if err := json.Unmarshal(header, &info); err != nil {
		return nil, info, fmt.Errorf("%w: header: %w", ErrNotState, err)
	}
	return s, info, nil
}

// get reads n bytes, which are good until the next call.
func (s *stateReader) get(n int) ([]byte, error) {
	if cap(s.frame) < n {
		s.frame = make([]byte, n)
	}
	b := s.frame[:n]
	if _, err := io.ReadFull(s.r, b); err != nil {
		return nil, err
	}
	s.sum.Write(b)
	return b, nil
}

// check reads a digest and compares.
func (s *stateReader) check() error {
	var got, want [sha256.Size]byte
	if _, err := io.ReadFull(s.r, got[:]); err != nil {
		return damaged(err)
	}
	if s.sum.Sum(want[:0]); got != want {
		return fmt.Errorf("%w: bytes were changed at or before byte %d of the stream", ErrStateDamaged, s.raw)
	}
	return nil
}

func damaged(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", ErrStateDamaged)
	}
	return err // the file could not be read
}

// next returns the next piece of the stream, good until the next call, or io.EOF
// after the last one of a whole container.
func (s *stateReader) next() ([]byte, error) {
	head, err := s.get(9)
	if err != nil {
		return nil, damaged(err)
	}
	kind, stored, raw := head[0], binary.LittleEndian.Uint32(head[1:]), binary.LittleEndian.Uint32(head[5:])
	if kind == frameEnd {
		total := binary.LittleEndian.Uint64(head[1:])
		if err := s.check(); err != nil {
			return nil, err
		}
		if total != s.raw {
			return nil, fmt.Errorf("%w: %d bytes of %d", ErrStateDamaged, s.raw, total)
		}
		return nil, io.EOF
	}
	if raw == 0 || raw > chunkSize || stored > raw || kind == frameRaw && stored != raw || kind != frameRaw && kind != frameZstd {
		return nil, fmt.Errorf("%w: a frame of kind %d, %d bytes of %d", ErrStateDamaged, kind, stored, raw)
	}
	b, err := s.get(int(stored))
	if err != nil {
		return nil, damaged(err)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	if kind == frameZstd {
		if s.piece, err = s.zstd.DecodeAll(b, s.piece[:0]); err != nil {
			return nil, fmt.Errorf("%w: a frame does not unpack: %w", ErrStateDamaged, err)
		}
		if len(s.piece) != int(raw) {
			return nil, fmt.Errorf("%w: a frame has %d bytes of %d", ErrStateDamaged, len(s.piece), raw)
		}
		b = s.piece
	}
	s.raw += uint64(len(b))
	return b, nil
}

// CheckState reads a whole state and tells what it is of. Errors: ErrNotState,
// ErrStateDamaged, the reader's.
func CheckState(r io.Reader) (StateInfo, error) {
	s, info, err := newStateReader(r)
	for err == nil {
		_, err = s.next()
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return info, err
}
