package auth

import (
	"bytes"
	"encoding/binary"
	"time"
)

// avID names an AV_PAIR (MS-NLMP 2.2.2.1).
type avID uint16

const (
	avEOL             avID = 0
	avNbComputerName  avID = 1
	avNbDomainName    avID = 2
	avDNSComputerName avID = 3
	avDNSDomainName   avID = 4
	avDNSTreeName     avID = 5
	avFlags           avID = 6
	avTimestamp       avID = 7
	avTargetName      avID = 9
	avChannelBindings avID = 10
)

// Bits of avFlags.
const (
	avFlagMIC              = 0x2
	avFlagUnverifiedTarget = 0x4
)

// avPair is one attribute.
type avPair struct {
	id    avID
	value []byte
}

// avPairs is a sequence of attributes without its terminator. Decoded, it is not nil.
type avPairs []avPair

// maxAVPairs is how many attributes a message may have; eleven kinds are defined.
const maxAVPairs = 64

// decodeAVPairs reads pairs up to the terminator and returns what follows it; nil
// pairs mean a malformed sequence.
func decodeAVPairs(b []byte) (pairs avPairs, rest []byte) {
	pairs = avPairs{}
	for len(b) >= 4 && len(pairs) <= maxAVPairs {
		id, n := avID(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:]))
		b = b[4:]
		if id == avEOL {
			if n != 0 {
				return nil, nil
			}
			return pairs, b
		}
		if n > len(b) {
			return nil, nil
		}
		pairs = append(pairs, avPair{id, b[:n:n]})
		b = b[n:]
	}
	return nil, nil
}

func (p avPairs) encode() []byte {
	var b []byte
	for _, a := range p {
		b = binary.LittleEndian.AppendUint16(b, uint16(a.id))
		b = binary.LittleEndian.AppendUint16(b, uint16(len(a.value)))
		b = append(b, a.value...)
	}
	return append(b, 0, 0, 0, 0)
}

// get finds an attribute's value; nil if there is none.
func (p avPairs) get(id avID) []byte {
	for _, a := range p {
		if a.id == id {
			return present(a.value)
		}
	}
	return nil
}

// set replaces an attribute or adds it.
func (p *avPairs) set(id avID, value []byte) {
	for i, a := range *p {
		if a.id == id {
			(*p)[i].value = value
			return
		}
	}
	*p = append(*p, avPair{id, value})
}

// flags is the value of avFlags, 0 if absent or not four bytes.
func (p avPairs) flags() uint32 {
	if v := p.get(avFlags); len(v) == 4 {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

// bindings is the channel binding hash, nil where absent or all zeros.
func (p avPairs) bindings() []byte {
	v := p.get(avChannelBindings)
	if bytes.Equal(v, make([]byte, len(v))) {
		return nil
	}
	return v
}

// filetime counts 100 ns from 1601 (MS-DTYP 2.3.3).
func filetime(t time.Time) uint64 {
	const epoch = 11644473600 // seconds from 1601 to 1970
	return uint64(t.Unix()+epoch)*1e7 + uint64(t.Nanosecond()/100)
}
