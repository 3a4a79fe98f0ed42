package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"lunless/shares/fs"
)

// What of a record outlives the process, as a Bolt keeps it. All integers are
// little endian, a string is its length (32 bits) and its bytes, a list its count
// (32 bits) and its elements, a bool one byte, 0 or 1.
//
//	version      8 bits, recordVersion
//	opens        list of
//	  id         64
//	  access     32
//	  share      32
//	  link       string
//	  delete     bool: on close
//	  of stream  bool
//	  has lease  bool; with it: client GUID 128, key 128
//	  oplock     cache
//	  timeout    64, ns
//	  create     128, GUID
//	  client     128, GUID
//	  owner, share, name   strings
//	  options    32
//	  desired    32, access
//	  app        128, instance; bool has version; with it: high 64, low 64
//	  sequences  64 bytes
//	locks        list of owner 64, offset 64, length 64, exclusive bool
//	deleting     list of strings
//	leases       list of client 128, key 128, cache, epoch 16, version 8, has parent bool; with it: parent 128
//	checksum     32, CRC-32C of the key and all before
//
//	cache        state 8, breaking bool, break to 8, needed 8, serial 32
//
// The key is volume, inode and birth of the file, 64 bits each, big endian.
//
// Left out is what a restart decides: every open in it is a persistent one, is
// disconnected, and has its full timeout from then on (MS-SMB2 3.3.5.9.10 and
// 3.3.5.9.12 know no time the server was away); a break that was under way is told
// its holder again, whose acknowledgment may have been lost. That its CREATE can be replayed is
// left out too: a client that had an answer has no cause to, so that there is
// nothing to protect, and each open would cost one more commit.
const recordVersion = 1

const keySize = 24

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errRecord says what is wrong with a record in the file.
var (
	errShort     = errors.New("ends too early")
	errLong      = errors.New("has bytes left over")
	errChecksum  = errors.New("checksum is wrong")
	errBool      = errors.New("holds a bool that is neither 0 nor 1")
	errDangling  = errors.New("holds a lock, lease or delete without its open")
	errTwice     = errors.New("holds an open or lease twice")
	errKey       = errors.New("key has a wrong size")
	errTimeout   = errors.New("holds a negative timeout")
	errNoOpen    = errors.New("holds no open")
	errTruncated = errors.New("records are missing, or are not those that were committed")
)

func encodeKey(id fs.FileID) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, keySize), id.Volume)
	b = binary.BigEndian.AppendUint64(b, id.Inode)
	return binary.BigEndian.AppendUint64(b, uint64(id.Birth))
}

func decodeKey(b []byte) (fs.FileID, error) {
	if len(b) != keySize {
		return fs.FileID{}, errKey
	}
	return fs.FileID{
		Volume: binary.BigEndian.Uint64(b), Inode: binary.BigEndian.Uint64(b[8:]), Birth: int64(binary.BigEndian.Uint64(b[16:])),
	}, nil
}

// encodeRecord makes the value of a record that is nothing but durable.
func encodeRecord(key []byte, r *Record) []byte {
	w := writer{b: []byte{recordVersion}}
	w.u32(uint32(len(r.Opens)))
	for i := range r.Opens {
		w.open(&r.Opens[i])
	}
	w.u32(uint32(len(r.Locks)))
	for _, l := range r.Locks {
		w.u64(uint64(l.Owner))
		w.u64(l.Offset)
		w.u64(l.Length)
		w.bool(l.Exclusive)
	}
	w.u32(uint32(len(r.Deleting)))
	for _, s := range r.Deleting {
		w.string(s)
	}
	w.u32(uint32(len(r.Leases)))
	for i := range r.Leases {
		l := &r.Leases[i]
		w.key(l.Key)
		w.cache(&l.Cache)
		w.u16(l.Epoch)
		w.u8(l.Version)
		w.bool(l.HasParent)
		if l.HasParent {
			w.bytes(l.Parent[:])
		}
	}
	w.u32(checksum(key, w.b))
	return w.b
}

func checksum(key, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
}

// decodeRecord reads what encodeRecord wrote: what decodes, encodes to the same bytes.
func decodeRecord(key, b []byte) (Record, error) {
	if len(b) < 5 {
		return Record{}, errShort
	}
	body := b[:len(b)-4]
	if binary.LittleEndian.Uint32(b[len(body):]) != checksum(key, body) {
		return Record{}, errChecksum
	}
	if body[0] != recordVersion {
		return Record{}, fmt.Errorf("has version %d, this program knows %d: use the newer program", body[0], recordVersion)
	}
	var r Record
	d := reader{b: body[1:]}
	for range d.count(openSize) {
		r.Opens = append(r.Opens, d.open())
	}
	for range d.count(25) {
		r.Locks = append(r.Locks, Lock{OpenID(d.u64()), d.u64(), d.u64(), d.bool()})
	}
	for range d.count(4) {
		r.Deleting = append(r.Deleting, d.string())
	}
	for range d.count(44) {
		l := Lease{Key: d.key(), Cache: d.cache(), Epoch: d.u16(), Version: d.u8(), HasParent: d.bool()}
		if l.HasParent {
			d.bytes(l.Parent[:])
		}
		r.Leases = append(r.Leases, l)
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = errLong
	}
	if d.err == nil {
		d.err = r.consistent()
	}
	return r, d.err
}

// consistent checks what Changes rely on in a durable record.
func (r *Record) consistent() error {
	opens, links, leases := map[OpenID]bool{}, map[string]bool{}, map[LeaseKey]bool{}
	for i := range r.Opens {
		o := &r.Opens[i]
		if opens[o.ID] {
			return errTwice
		}
		if o.Handle.Timeout < 0 {
			return errTimeout
		}
		opens[o.ID], links[o.Link] = true, true
		if o.HasLease {
			leases[o.Lease] = true
		}
	}
	if len(opens) == 0 {
		return errNoOpen
	}
	for i := range r.Locks {
		if !opens[r.Locks[i].Owner] {
			return errDangling
		}
	}
	for _, s := range r.Deleting {
		if !links[s] {
			return errDangling
		}
	}
	for i := range r.Leases {
		if !leases[r.Leases[i].Key] {
			return errDangling
		}
		delete(leases, r.Leases[i].Key)
	}
	if len(leases) > 0 {
		return errDangling
	}
	return nil
}

// openSize is the least an open takes.
const openSize = 8 + 4 + 4 + 4 + 1 + 1 + 1 + 8 + 8 + 16 + 16 + 4 + 4 + 4 + 4 + 4 + 16 + 1 + 64

type writer struct{ b []byte }

func (w *writer) u8(v uint8)     { w.b = append(w.b, v) }
func (w *writer) u16(v uint16)   { w.b = binary.LittleEndian.AppendUint16(w.b, v) }
func (w *writer) u32(v uint32)   { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64)   { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *writer) bytes(v []byte) { w.b = append(w.b, v...) }

func (w *writer) string(s string) {
	w.u32(uint32(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) bool(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

func (w *writer) key(k LeaseKey) {
	w.bytes(k.Client[:])
	w.bytes(k.Key[:])
}

func (w *writer) cache(c *Cache) {
	w.u8(uint8(c.State))
	w.bool(c.Breaking)
	w.u8(uint8(c.BreakTo))
	w.u8(uint8(c.Needed))
	w.u32(c.Serial)
}

func (w *writer) open(o *Open) {
	w.u64(uint64(o.ID))
	w.u32(o.Access)
	w.u32(o.Share)
	w.string(o.Link)
	w.bool(o.DeleteOnClose)
	w.bool(o.OfStream)
	w.bool(o.HasLease)
	if o.HasLease {
		w.key(o.Lease)
	}
	w.cache(&o.Oplock)
	h := &o.Handle
	w.u64(uint64(h.Timeout))
	w.bytes(h.CreateGUID[:])
	w.bytes(h.ClientGUID[:])
	w.string(h.Owner)
	w.string(h.Share)
	w.string(h.Name)
	w.u32(h.Options)
	w.u32(h.Desired)
	w.bytes(h.AppInstance.ID[:])
	w.bool(h.AppInstance.HasVersion)
	if h.AppInstance.HasVersion {
		w.u64(h.AppInstance.High)
		w.u64(h.AppInstance.Low)
	}
	w.bytes(h.LockSequences[:])
}

// reader reads from b. After an error it reads zeroes.
type reader struct {
	b   []byte
	err error
}

func (d *reader) take(n int) []byte {
	if d.err == nil && n > len(d.b) {
		d.err = errShort
	}
	if d.err != nil {
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *reader) bytes(to []byte) { copy(to, d.take(len(to))) }

func (d *reader) u8() uint8 {
	var v [1]byte
	d.bytes(v[:])
	return v[0]
}

func (d *reader) u16() uint16 {
	var v [2]byte
	d.bytes(v[:])
	return binary.LittleEndian.Uint16(v[:])
}

func (d *reader) u32() uint32 {
	var v [4]byte
	d.bytes(v[:])
	return binary.LittleEndian.Uint32(v[:])
}

func (d *reader) u64() uint64 {
	var v [8]byte
	d.bytes(v[:])
	return binary.LittleEndian.Uint64(v[:])
}

func (d *reader) bool() bool {
	v := d.u8()
	if v > 1 && d.err == nil {
		d.err = errBool
	}
	return v == 1
}

func (d *reader) string() string {
	n := d.u32()
	if uint64(n) > uint64(len(d.b)) && d.err == nil {
		d.err = errShort
	}
	if d.err != nil {
		return ""
	}
	return string(d.take(int(n)))
}

// count reads the count of a list whose elements take least bytes each.
func (d *reader) count(least int) int {
	n := d.u32()
	if uint64(n)*uint64(least) > uint64(len(d.b)) && d.err == nil {
		d.err = errShort
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *reader) key() (k LeaseKey) {
	d.bytes(k.Client[:])
	d.bytes(k.Key[:])
	return k
}

func (d *reader) cache() Cache {
	return Cache{State: Caching(d.u8()), Breaking: d.bool(), BreakTo: Caching(d.u8()), Needed: Caching(d.u8()), Serial: d.u32()}
}

func (d *reader) open() (o Open) {
	o.ID = OpenID(d.u64())
	o.Access = d.u32()
	o.Share = d.u32()
	o.Link = d.string()
	o.DeleteOnClose = d.bool()
	o.OfStream = d.bool()
	if o.HasLease = d.bool(); o.HasLease {
		o.Lease = d.key()
	}
	o.Oplock = d.cache()
	h := &o.Handle
	h.Kind = Persistent
	h.Timeout = time.Duration(d.u64())
	d.bytes(h.CreateGUID[:])
	d.bytes(h.ClientGUID[:])
	h.Owner = d.string()
	h.Share = d.string()
	h.Name = d.string()
	h.Options = d.u32()
	h.Desired = d.u32()
	d.bytes(h.AppInstance.ID[:])
	if h.AppInstance.HasVersion = d.bool(); h.AppInstance.HasVersion {
		h.AppInstance.High = d.u64()
		h.AppInstance.Low = d.u64()
	}
	d.bytes(h.LockSequences[:])
	return o
}
