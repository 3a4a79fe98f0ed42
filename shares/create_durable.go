package shares

import (
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// durableContexts are the create contexts that ask for caching and for handles
// that outlive their connection. A nil one is not there.
type durableContexts struct {
	dialect smb2.Dialect

	lease       *smb2.Lease
	durable     bool                   // "DHnQ"
	reconnect   *smb2.DurableReconnect // "DHnC"
	durableV2   *smb2.DurableRequestV2
	reconnectV2 *smb2.DurableReconnectV2
	app         *smb2.AppInstanceID
	appVersion  *smb2.AppInstanceVersion
}

func (c *durableContexts) one(name string, data []byte) error {
	is3 := c.dialect >= smb2.Dialect300
	switch name {
	case smb2.CreateContextLease:
		return c.takeLease(data)
	case smb2.CreateContextDurableRequest:
		c.durable = true
		return new(smb2.DurableRequest).Decode(data)
	case smb2.CreateContextDurableReconnect:
		c.reconnect = new(smb2.DurableReconnect)
		return c.reconnect.Decode(data)
	case smb2.CreateContextDurableRequestV2:
		if is3 {
			c.durableV2 = new(smb2.DurableRequestV2)
			return c.durableV2.Decode(data)
		}
	case smb2.CreateContextDurableReconnectV2:
		if is3 {
			c.reconnectV2 = new(smb2.DurableReconnectV2)
			return c.reconnectV2.Decode(data)
		}
	case smb2.CreateContextAppInstanceID:
		if is3 {
			c.app = new(smb2.AppInstanceID)
			return c.app.Decode(data)
		}
	case smb2.CreateContextAppInstanceVersion:
		if c.dialect >= smb2.Dialect311 {
			c.appVersion = new(smb2.AppInstanceVersion)
			return c.appVersion.Decode(data)
		}
	}
	return nil
}

// takeLease reads a lease request: of version 1 from 2.1 on, of version 2 from 3.0
// on (MS-SMB2 3.3.5.9, "Oplock Acquisition").
func (c *durableContexts) takeLease(data []byte) error {
	if c.dialect == smb2.Dialect202 {
		return nil
	}
	l := new(smb2.Lease)
	if err := l.Decode(data); err != nil {
		return err
	}
	if l.Version == 1 || c.dialect >= smb2.Dialect300 {
		c.lease = l
	}
	return nil
}

// checkDurable refuses contexts that exclude each other (MS-SMB2 3.3.5.9.6,
// 3.3.5.9.7, 3.3.5.9.10, 3.3.5.9.12).
func (c *durableContexts) checkDurable() error {
	v1, v2 := c.durable || c.reconnect != nil, c.durableV2 != nil || c.reconnectV2 != nil
	if v1 && v2 || c.durableV2 != nil && c.reconnectV2 != nil {
		return smb2.StatusInvalidParameter
	}
	return nil
}

// reclaims says that the request wants an open back.
func (c *durableContexts) reclaims() bool { return c.reconnect != nil || c.reconnectV2 != nil }

// leaseKey is the key of a lease of the client.
func leaseKey(client, key smb2.GUID) state.LeaseKey { return state.LeaseKey{Client: client, Key: key} }

// wantsLease says that the request is for a lease.
func (c *creation) wantsLease(dir bool) bool {
	l := c.ctxs.lease
	return l != nil && c.req.RequestedOplockLevel == smb2.OplockLease && (!dir || l.Version == 2)
}

// checkLease refuses a lease key that stands for another file than id, or for any
// if the file is yet to be made (MS-SMB2 3.3.5.9.8, "Path Name Validation").
func (c *creation) checkLease(id *fs.FileID) error {
	l := c.ctxs.lease
	if l == nil || c.req.RequestedOplockLevel != smb2.OplockLease {
		return nil
	}
	file, there := c.r.conn.srv.table.leaseFile(leaseKey(c.r.conn.neg.clientGUID, l.LeaseKey))
	if there && (id == nil || file != *id) {
		return smb2.StatusInvalidParameter
	}
	return nil
}

// wanted is the caching that is asked for.
func (c *creation) wanted(dir bool) state.Caching {
	if c.wantsLease(dir) {
		return state.Caching(c.ctxs.lease.LeaseState & (smb2.LeaseReadCaching | smb2.LeaseHandleCaching | smb2.LeaseWriteCaching))
	}
	return cachingOf(c.req.RequestedOplockLevel)
}

// cachingOf is what an oplock level lets a client cache.
func cachingOf(l smb2.OplockLevel) state.Caching {
	switch l {
	case smb2.OplockII:
		return state.LevelII
	case smb2.OplockExclusive:
		return state.Exclusive
	case smb2.OplockBatch:
		return state.Batch
	}
	return 0
}

// oplockLevel is cachingOf the other way round.
func oplockLevel(c state.Caching) smb2.OplockLevel {
	switch c {
	case state.LevelII:
		return smb2.OplockII
	case state.Exclusive:
		return smb2.OplockExclusive
	case state.Batch:
		return smb2.OplockBatch
	}
	return smb2.OplockNone
}

// maxDurableTimeout bounds what a client may ask for (MS-SMB2 3.3.5.9.10).
const maxDurableTimeout = 300 * time.Second

// wantedHandle is how long the open shall outlive its connection, and what
// identifies its client then (MS-SMB2 3.3.5.9.6, 3.3.5.9.10). What is not granted
// for lack of handle caching is the state's to say.
func (c *creation) wantedHandle(o *open) state.Handle {
	r, x := c.r, &c.ctxs
	h := state.Handle{
		ClientGUID: r.conn.neg.clientGUID, Owner: r.session.owner(), Share: r.tree.share.Name, Name: c.req.Name,
		Options: uint32(c.req.CreateOptions), Desired: uint32(c.req.DesiredAccess),
	}
	h.AppInstance = x.instance()
	limits := &r.conn.srv.cfg.Limits
	wantsHandle := c.req.RequestedOplockLevel == smb2.OplockBatch || c.wantsLease(o.dir) && c.wanted(o.dir)&state.CacheHandle != 0
	switch {
	case x.durableV2 != nil:
		h.CreateGUID = x.durableV2.CreateGUID
		if o.dir || c.req.FileAttributes&fileAttributeDirectory != 0 {
			break
		}
		h.Kind, h.Timeout = state.DurableV2, limits.Durable
		if ms := x.durableV2.Timeout; ms != 0 {
			h.Timeout = min(time.Duration(ms)*time.Millisecond, maxDurableTimeout)
		}
		if x.durableV2.Flags&smb2.DurableFlagPersistent != 0 && o.ca {
			h.Kind = state.Persistent
		}
		const replayed = smb2.FileReadData | smb2.FileExecute | smb2.FileWriteData | smb2.FileAppendData | smb2.Delete
		h.Replayable = h.Kind == state.Persistent || o.access&replayed != 0
	case x.durable && wantsHandle && !o.dir:
		h.Kind, h.Timeout = state.Durable, limits.Durable
	}
	return h
}

const fileAttributeDirectory = 0x10

// grantedCaching is what of all that an open has got, for its CREATE response.
type grantedCaching struct {
	open     state.Open
	lease    state.Lease // with open.HasLease
	reclaims bool
}

func (g *grantedCaching) level() smb2.OplockLevel {
	if g.open.HasLease {
		return smb2.OplockLease
	}
	return oplockLevel(g.open.Oplock.State)
}

// contexts are those of the response that tell of it (MS-SMB2 2.2.14.2).
func (g *grantedCaching) contexts() []smb2.CreateContext {
	var list []smb2.CreateContext
	if g.open.HasLease {
		l := smb2.Lease{Version: int(g.lease.Version), LeaseKey: g.lease.Key.Key, LeaseState: smb2.LeaseState(g.lease.State)}
		if g.lease.Breaking {
			l.Flags |= smb2.LeaseFlagBreakInProgress
		}
		if l.Version == 2 {
			l.Epoch = g.lease.Epoch
			if g.lease.HasParent {
				l.Flags |= smb2.LeaseFlagParentLeaseKeySet
				l.ParentLeaseKey = g.lease.Parent
			}
		}
		list = append(list, l.Context())
	}
	if g.reclaims {
		return list
	}
	switch h := &g.open.Handle; h.Kind {
	case state.Durable:
		list = append(list, smb2.DurableResponse{}.Context())
	case state.DurableV2, state.Persistent:
		if h.Kind == state.DurableV2 && (g.open.Oplock.State|g.lease.State)&state.CacheHandle == 0 {
			break // a replay that asked for less (MS-SMB2 note 342)
		}
		m := smb2.DurableResponseV2{Timeout: uint32(h.Timeout / time.Millisecond)}
		if h.Kind == state.Persistent {
			m.Flags = smb2.DurableFlagPersistent
		}
		list = append(list, m.Context())
	}
	return list
}
