package services

import (
	"context"
	"time"

	"lunless/smbstore/fscc"
	"lunless/smbstore/rpc"
)

// started is what NetrRemoteTOD counts from.
var started = time.Now()

// calls performs the operations for one open pipe.
type calls struct {
	backend  Backend
	caller   Caller
	policies policies
}

// srvsvc performs the operations of MS-SRVS 3.1.4 there are. NetrSessionEnum
// tells nobody who is connected, and shares are changed on the node, not from afar.
func (c *calls) srvsvc(ctx context.Context, opnum uint16, in *rpc.Decoder, out *rpc.Encoder) error {
	switch opnum {
	case rpc.OpNetrShareEnum:
		return c.shareEnum(ctx, in, out, false)
	case rpc.OpNetrShareEnumSticky:
		return c.shareEnum(ctx, in, out, true)
	case rpc.OpNetrShareGetInfo:
		return c.shareGetInfo(ctx, in, out)
	case rpc.OpNetrServerGetInfo:
		return c.serverGetInfo(in, out)
	case rpc.OpNetrRemoteTOD:
		return c.remoteTOD(in, out)
	case rpc.OpNetrSessionEnum, rpc.OpNetrShareAdd, rpc.OpNetrShareSetInfo, rpc.OpNetrShareDel:
		return rpc.FaultAccessDenied
	}
	return rpc.FaultOperationRange
}

// shareEnum is NetrShareEnum and, for sticky shares alone, NetrShareEnumSticky,
// which has no level 501 (MS-SRVS 3.1.4.8, 3.1.4.9). All shares but IPC$ are
// sticky. The resume handle is the number of shares that have been listed.
func (c *calls) shareEnum(ctx context.Context, in *rpc.Decoder, out *rpc.Encoder, sticky bool) error {
	var q rpc.ShareEnumRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	a := rpc.ShareEnumReply{Level: q.Level, HasResume: q.HasResume, Resume: q.Resume}
	if a.Status = c.mayUse(q.Level, rpc.ShareEnumLevel(q.Level) && !(sticky && q.Level == 501), false); a.Status == rpc.StatusOK {
		all, err := c.shares(ctx)
		if err != nil {
			return err
		}
		if sticky {
			all = all[:len(all)-1]
		}
		first := 0
		if q.HasResume {
			first = int(min(uint64(q.Resume), uint64(len(all))))
		}
		all = all[first:]
		a.Total = uint32(len(all))
		n := fitting(all, q.Level, q.PreferredMax)
		a.Shares = all[:n]
		switch {
		case n == len(all):
			a.Resume = 0
		case n == 0:
			a.Status = rpc.StatusBufTooSmall
		default:
			a.Status = rpc.StatusMoreData
			a.Resume = uint32(first + n)
		}
	}
	a.Encode(out)
	return nil
}

// fitting is how many of the shares take at most limit bytes.
func fitting(shares []rpc.ShareInfo, level, limit uint32) int {
	if limit == rpc.MaxPreferredLength {
		return len(shares)
	}
	room := int64(limit)
	for i := range shares {
		if room -= int64(shares[i].Size(level)); room < 0 {
			return i
		}
	}
	return len(shares)
}

// mayUse decides on a level of share information: paths, uses and descriptors
// are not for anonymous callers, flags only those of a share they can name.
func (c *calls) mayUse(level uint32, offered, oneShare bool) rpc.Status {
	switch {
	case !offered:
		return rpc.StatusInvalidLevel
	case c.caller.Anonymous && level != 0 && level != 1 && !(oneShare && (level == 501 || level == 1005)):
		return rpc.StatusAccessDenied
	}
	return rpc.StatusOK
}

// shareGetInfo is NetrShareGetInfo (MS-SRVS 3.1.4.10).
func (c *calls) shareGetInfo(ctx context.Context, in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.ShareGetInfoRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	a := rpc.ShareGetInfoReply{Level: q.Level}
	if a.Status = c.mayUse(q.Level, rpc.ShareLevel(q.Level), true); a.Status == rpc.StatusOK {
		all, err := c.shares(ctx)
		if err != nil {
			return err
		}
		a.Status = rpc.StatusNoSuchShare
		for i := range all {
			if fscc.EqualNames(all[i].Name, q.Share) {
				a.Share, a.Status = &all[i], rpc.StatusOK
			}
		}
	}
	a.Encode(out)
	return nil
}

// shares lists every share, IPC$ last.
func (c *calls) shares(ctx context.Context) ([]rpc.ShareInfo, error) {
	list, err := c.backend.Shares(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]rpc.ShareInfo, 0, len(list)+1)
	for _, s := range list {
		i := rpc.ShareInfo{
			Name: s.Name, Type: rpc.STYPE_DISKTREE, Comment: s.Comment, MaxUses: s.MaxUses, CurrentUses: s.CurrentUses,
			Path: `C:\` + s.Name, SD: s.SD, Flags: rpc.CSC_CACHE_NONE,
		}
		if s.MaxUses == 0 {
			i.MaxUses = rpc.UnlimitedUses
		}
		for _, f := range [...]struct {
			on   bool
			flag uint32
		}{
			{s.Encrypt, rpc.SHI1005_FLAGS_ENCRYPT_DATA},
			{s.CA, rpc.SHI1005_FLAGS_ENABLE_CA},
			{s.Enumerate, rpc.SHI1005_FLAGS_ACCESS_BASED_DIRECTORY_ENUM},
		} {
			if f.on {
				i.Flags |= f.flag
			}
		}
		out = append(out, i)
	}
	return append(out, rpc.ShareInfo{
		Name: "IPC$", Type: rpc.STYPE_IPC | rpc.STYPE_SPECIAL, Comment: "Remote IPC", MaxUses: rpc.UnlimitedUses, CurrentUses: 1,
		Path: "", Flags: rpc.CSC_CACHE_NONE,
	}), nil
}

// serverGetInfo is NetrServerGetInfo (MS-SRVS 3.1.4.17).
func (c *calls) serverGetInfo(in *rpc.Decoder, out *rpc.Encoder) error {
	var q rpc.LevelRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	a := rpc.ServerGetInfoReply{Level: q.Level}
	switch {
	case !rpc.ServerLevel(q.Level):
		a.Status = rpc.StatusInvalidLevel
	case c.caller.Anonymous && q.Level > 101:
		a.Status = rpc.StatusAccessDenied
	default:
		s := c.backend.Server()
		a.Info = &rpc.ServerInfo{
			PlatformID: rpc.PLATFORM_ID_NT, Name: s.Name, Comment: s.Comment,
			VersionMajor: s.VersionMajor, VersionMinor: s.VersionMinor,
			Type:  rpc.SV_TYPE_WORKSTATION | rpc.SV_TYPE_SERVER | rpc.SV_TYPE_NT | rpc.SV_TYPE_SERVER_NT,
			Users: rpc.UnlimitedUses, Disconnect: -1, Hidden: true, UserPath: `C:\`,
		}
	}
	a.Encode(out)
	return nil
}

// remoteTOD is NetrRemoteTOD (MS-SRVS 3.1.4.21).
func (c *calls) remoteTOD(in *rpc.Decoder, out *rpc.Encoder) error {
	in.UniqueWString()
	if err := in.Done(); err != nil {
		return err
	}
	t := rpc.TimeOfDayOf(time.Now(), time.Since(started))
	a := rpc.RemoteTODReply{Time: &t}
	a.Encode(out)
	return nil
}

// wkssvc performs NetrWkstaGetInfo (MS-WKST 3.2.4.1), at level 100.
func (c *calls) wkssvc(_ context.Context, opnum uint16, in *rpc.Decoder, out *rpc.Encoder) error {
	if opnum != rpc.OpNetrWkstaGetInfo {
		return rpc.FaultOperationRange
	}
	var q rpc.LevelRequest
	if err := q.Decode(in); err != nil {
		return err
	}
	a := rpc.WkstaGetInfoReply{Level: q.Level, Status: rpc.StatusInvalidLevel}
	if rpc.WkstaLevel(q.Level) {
		s := c.backend.Server()
		a.Status = rpc.StatusOK
		a.Info = &rpc.WkstaInfo{PlatformID: rpc.PLATFORM_ID_NT, ComputerName: s.Name, Group: s.Group,
			VersionMajor: s.VersionMajor, VersionMinor: s.VersionMinor}
	}
	a.Encode(out)
	return nil
}
