package shares

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lunless/smbstore/smb2"
)

// linkSpeed is that of an interface which does not tell, bits a second.
const linkSpeed = 1e9

// queryInterfaces tells a client by which addresses it may reach the server, for
// more channels (MS-SMB2 3.3.5.15.11).
func queryInterfaces(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	c := r.conn
	if c.neg.dialect < smb2.Dialect300 || c.neg.capabilities&smb2.CapMultiChannel == 0 {
		return smb2.StatusNotSupported
	}
	list, err := c.srv.interfaces(c.nc.LocalAddr())
	if err != nil {
		return err
	}
	if list.Size() > int(req.MaxOutputResponse) {
		return smb2.StatusBufferTooSmall
	}
	return r.encodeIoctl(req, list)
}

// interfaces are the addresses that a client which has come to local can come to
// as well: those that have been configured, or those of this machine which a
// listener takes on the same port. Those of the loopback interface are listed only
// where there are no others.
func (srv *Server) interfaces(local net.Addr) (smb2.NetworkInterfaceInfos, error) {
	machine, err := machineInterfaces()
	if err != nil {
		return nil, err
	}
	var list, loopback smb2.NetworkInterfaceInfos
	if len(srv.cfg.Interfaces) > 0 {
		for _, a := range srv.cfg.Interfaces {
			info := smb2.NetworkInterfaceInfo{IfIndex: 1, LinkSpeed: linkSpeed, Addr: a.Unmap()}
			if i := slices.IndexFunc(machine, func(m smb2.NetworkInterfaceInfo) bool { return m.Addr == info.Addr }); i >= 0 {
				info = machine[i]
			}
			list = append(list, info)
		}
		return list, nil
	}
	reachable := srv.listensOn(local)
	for _, info := range machine {
		switch {
		case !reachable(info.Addr):
		case info.Addr.IsLoopback():
			loopback = append(loopback, info)
		default:
			list = append(list, info)
		}
	}
	if len(list) == 0 {
		return loopback, nil
	}
	return list, nil
}

// listensOn returns what tells whether some listener takes an address, on the port
// of local: clients use one port for all channels.
func (srv *Server) listensOn(local net.Addr) func(netip.Addr) bool {
	var any4, any6 bool
	var exact []netip.Addr
	port := addrPort(local).Port()
	srv.mu.Lock()
	for l := range srv.listeners {
		at := addrPort(l.Addr())
		switch a := at.Addr().Unmap(); {
		case !at.IsValid() || at.Port() != port:
		case a.Is4() && a.IsUnspecified():
			any4 = true
		case a.IsUnspecified(): // a dual-stack socket takes both
			any4, any6 = true, true
		default:
			exact = append(exact, a.WithZone(""))
		}
	}
	srv.mu.Unlock()
	return func(a netip.Addr) bool {
		return any4 && a.Is4() || any6 && a.Is6() || slices.Contains(exact, a)
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

// machineInterfaces are the addresses of the interfaces that are up. Link-local
// ones are left out: their zone means nothing to a client.
func machineInterfaces() (smb2.NetworkInterfaceInfos, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var list smb2.NetworkInterfaceInfos
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Index <= 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // gone meanwhile
		}
		info := smb2.NetworkInterfaceInfo{IfIndex: uint32(i.Index), LinkSpeed: speedOf(i.Name)}
		if receiveQueues(i.Name) > 1 {
			info.Capability = smb2.InterfaceRSSCapable
		}
		for _, a := range addrs {
			prefix, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, ok := netip.AddrFromSlice(prefix.IP)
			if addr = addr.Unmap(); ok && !addr.IsLinkLocalUnicast() && !addr.IsMulticast() {
				info.Addr = addr
				list = append(list, info)
			}
		}
	}
	return list, nil
}

const sysNet = "/sys/class/net"

// speedOf is the speed of a network interface, bits a second.
func speedOf(name string) uint64 {
	b, err := os.ReadFile(filepath.Join(sysNet, name, "speed"))
	if err != nil {
		return linkSpeed
	}
	mbits, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 32)
	if err != nil || mbits <= 0 { // -1: virtual, or without a carrier
		return linkSpeed
	}
	return uint64(mbits) * 1e6
}

// receiveQueues is into how many queues an interface spreads what it receives:
// more than one is receive side scaling.
func receiveQueues(name string) int {
	queues, err := filepath.Glob(filepath.Join(sysNet, name, "queues", "rx-*"))
	if err != nil {
		return 0
	}
	return len(queues)
}
