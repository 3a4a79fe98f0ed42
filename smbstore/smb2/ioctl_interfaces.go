package smb2

import "net/netip"

// InterfaceCapability of a network interface (MS-SMB2 2.2.32.5).
type InterfaceCapability uint32

// Capabilities of a network interface.
const (
	InterfaceRSSCapable  InterfaceCapability = 0x00000001
	InterfaceRDMACapable InterfaceCapability = 0x00000002
)

// NetworkInterfaceInfo is one address of a server (MS-SMB2 2.2.32.5).
type NetworkInterfaceInfo struct {
	IfIndex    uint32
	Capability InterfaceCapability
	LinkSpeed  uint64 // bits a second
	Addr       netip.Addr
}

const (
	interfaceInfoSize = 152
	familyInterNet    = 0x0002
	familyInterNetV6  = 0x0017
)

// NetworkInterfaceInfos is the output of FSCTL_QUERY_NETWORK_INTERFACE_INFO.
type NetworkInterfaceInfos []NetworkInterfaceInfo

// Size in bytes.
func (l NetworkInterfaceInfos) Size() int { return interfaceInfoSize * len(l) }

// Encode writes the list into b[:Size()]. An IPv6 zone is not sent.
func (l NetworkInterfaceInfos) Encode(b []byte) {
	w := writer{msg: b}
	for i := range l {
		n := &l[i]
		end := w.off + interfaceInfoSize
		if i < len(l)-1 {
			w.u32(interfaceInfoSize)
		} else {
			w.u32(0)
		}
		w.u32(n.IfIndex)
		w.u32(uint32(n.Capability))
		w.u32(0)
		w.u64(n.LinkSpeed)
		if n.Addr.Is4() {
			a := n.Addr.As4()
			w.u16(familyInterNet)
			w.u16(0)
			w.bytes(a[:])
		} else {
			a := n.Addr.As16()
			w.u16(familyInterNetV6)
			w.zero(6)
			w.bytes(a[:])
		}
		w.padTo(end)
	}
}

// Decode reads the list. Addresses of other families are left out.
func (l *NetworkInterfaceInfos) Decode(b []byte) error {
	*l = nil
	for len(b) > 0 {
		d := structure(b, "NETWORK_INTERFACE_INFO", interfaceInfoSize)
		next := d.u32()
		n := NetworkInterfaceInfo{IfIndex: d.u32(), Capability: InterfaceCapability(d.u32())}
		d.skip(4)
		n.LinkSpeed = d.u64()
		switch d.u16() {
		case familyInterNet:
			d.skip(2)
			n.Addr, _ = netip.AddrFromSlice(d.take(4))
		case familyInterNetV6:
			d.skip(6)
			n.Addr, _ = netip.AddrFromSlice(d.take(16))
		}
		switch {
		case d.err != nil || next == 0:
		case next%8 != 0:
			d.fail("Next", ErrAlignment)
		case next < interfaceInfoSize || uint64(next) > uint64(len(b)):
			d.fail("Next", ErrBounds)
		}
		if d.err != nil {
			return d.err
		}
		if n.Addr.IsValid() {
			*l = append(*l, n)
		}
		if next == 0 {
			return nil
		}
		b = b[next:]
	}
	return nil
}
