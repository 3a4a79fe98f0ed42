package nbd

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// TestOptions: what each option is answered with, and that the negotiation goes
// on after it.
func TestOptions(t *testing.T) {
	_, path := startServer(t, Options{}, ExportOptions{Name: "a", Description: "first", Device: block.NewMem(1 << 20)},
		ExportOptions{Name: "é", Device: block.NewMem(5000), ReadOnly: true})
	long := strings.Repeat("x", maxString+1)
	for _, tt := range []struct {
		name string
		opt  uint32
		data []byte
		want uint32
	}{
		{"unknown option", 99, []byte("data"), repErrUnsup},
		{"unknown option with much data", 99, make([]byte, 200<<10), repErrTooBig},
		{"peek export", 4, nil, repErrUnsup},
		{"extended headers", 11, nil, repErrUnsup},
		{"list", optList, nil, repAck},
		{"list with data", optList, []byte{1}, repErrInvalid},
		{"STARTTLS on a unix socket", optStartTLS, nil, repErrPolicy},
		{"STARTTLS with data", optStartTLS, []byte{1}, repErrInvalid},
		{"structured reply with data", optStructuredReply, []byte{1}, repErrInvalid},
		{"meta context before structured replies", optSetMetaContext, metaData("a", contextAllocation), repErrInvalid},
		{"structured reply", optStructuredReply, nil, repAck},
		{"structured reply again", optStructuredReply, nil, repAck},
		{"info", optInfo, goData("a"), repAck},
		{"info on no name, of two exports", optInfo, goData(""), repErrUnknown},
		{"info on another", optInfo, goData("b"), repErrUnknown},
		{"info on UTF-8", optInfo, goData("é", infoExport, infoName, infoDescription, infoBlockSize, 77), repAck},
		{"info, no data", optInfo, nil, repErrInvalid},
		{"info, name cut", optInfo, pack(uint32(9), "a"), repErrInvalid},
		{"info, huge name", optInfo, pack(uint32(1<<31), "a"), repErrInvalid},
		{"info, overlong name", optInfo, goData(long), repErrInvalid},
		{"info, items cut", optInfo, pack(uint32(1), "a", uint16(60000), uint16(3)), repErrInvalid},
		{"info, data behind", optInfo, pack(goData("a"), uint16(3)), repErrInvalid},
		{"go to another", optGo, goData("b"), repErrUnknown},
		{"go, malformed", optGo, []byte{0}, repErrInvalid},
		{"list contexts", optListMetaContext, metaData("a"), repAck},
		{"list contexts of another", optListMetaContext, metaData("b"), repErrUnknown},
		{"contexts, query cut", optSetMetaContext, pack(uint32(1), "a", uint32(1), uint32(5), "base"), repErrInvalid},
		{"contexts, query huge", optSetMetaContext, pack(uint32(1), "a", uint32(1), uint32(1<<32-1), "base"), repErrInvalid},
		{"contexts, more queries than data", optSetMetaContext, pack(uint32(1), "a", uint32(1<<32-1)), repErrInvalid},
		{"contexts, data behind", optSetMetaContext, pack(metaData("a"), uint16(1)), repErrInvalid},
		{"set context", optSetMetaContext, metaData("a", contextAllocation), repAck},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, path)
			c.put(uint32(flagFixedNewstyle | flagNoZeroes))
			if tt.opt == optListMetaContext || tt.opt == optSetMetaContext && !strings.Contains(tt.name, "before") {
				c.mustOption(optStructuredReply)
			}
			if r := c.option(tt.opt, tt.data); last(r) != tt.want {
				t.Fatalf("reply %#x %q, want %#x", last(r), r[len(r)-1].data, tt.want)
			}
			if r := c.mustOption(optList); len(r) != 3 {
				t.Fatalf("%d replies to the list after it", len(r))
			}
			if r := c.option(optAbort, []byte("ignored")); last(r) != repAck {
				t.Fatalf("abort: reply %#x", last(r))
			}
			c.wantEnd()
		})
	}
}

// TestInfo: what a client is told of an export.
func TestInfo(t *testing.T) {
	_, path := startServer(t, Options{},
		ExportOptions{Name: "rw", Description: "words", Device: block.NewMem(1 << 20), FastZero: true},
		ExportOptions{Name: "ro", Device: block.NewMem(5000), ReadOnly: true},
		ExportOptions{Name: "4k", Size: 1 << 30, Geometry: block.Geometry{LogicalSectorSize: 4096, PhysicalSectorSize: 4096, OptimalIO: 32 << 20}})
	writing := uint16(txSendFUA | txSendTrim | txSendWriteZeroes)
	base := uint16(txHasFlags | txSendFlush | txCanMultiConn | txSendCache)
	for _, tt := range []struct {
		name             string
		structured       bool
		size             uint64
		flags            uint16
		least, preferred uint32
		description      string
	}{
		{"rw", true, 1 << 20, base | writing | txSendFastZero | txSendDF, 512, 4096, "words"},
		{"rw", false, 1 << 20, base | writing | txSendFastZero, 512, 4096, "words"},
		{"ro", true, 5000, base | txReadOnly | txSendDF, 1, 4096, ""},
		{"4k", false, 1 << 30, base | writing, 4096, 4096, ""},
	} {
		c := dial(t, path)
		c.put(uint32(flagFixedNewstyle))
		if tt.structured {
			c.mustOption(optStructuredReply)
		}
		seen := map[uint16][]byte{}
		for _, r := range c.mustOption(optInfo, goData(tt.name, infoName, infoDescription, infoBlockSize)) {
			if r.kind == repInfo {
				seen[binary.BigEndian.Uint16(r.data)] = r.data[2:]
			}
		}
		want := map[uint16][]byte{infoExport: pack(tt.size, tt.flags), infoName: []byte(tt.name), infoBlockSize: pack(tt.least, tt.preferred, uint32(maxPayload))}
		if tt.description != "" {
			want[infoDescription] = []byte(tt.description)
		}
		for k, v := range want {
			if !bytes.Equal(seen[k], v) {
				t.Errorf("%s: item %d is %x, want %x", tt.name, k, seen[k], v)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("%s: %d items, want %d", tt.name, len(seen), len(want))
		}
	}
}

// TestExportName: the option that cannot be refused.
func TestExportName(t *testing.T) {
	_, path := startServer(t, Options{}, ExportOptions{Name: "a", Device: block.NewMem(1 << 20)})
	for _, tt := range []struct {
		name    string
		flags   uint32
		export  string
		replied int // bytes, 0 for an end
	}{
		{"fixed, no zeroes", flagFixedNewstyle | flagNoZeroes, "a", 10},
		{"not fixed", 0, "a", 134},
		{"not fixed, no zeroes", flagNoZeroes, "a", 10},
		{"default", flagFixedNewstyle, "", 134},
		{"unknown", flagFixedNewstyle, "b", 0},
		{"overlong", flagFixedNewstyle, strings.Repeat("a", maxString+1), 0},
		{"more than looked at", flagFixedNewstyle, strings.Repeat("a", maxOptionData+1), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, path)
			c.put(tt.flags, optionBytes(optExportName, tt.export))
			if tt.replied == 0 {
				c.wantEnd()
				return
			}
			b := c.take(tt.replied)
			if binary.BigEndian.Uint64(b) != 1<<20 || len(bytes.Trim(b[10:], "\x00")) != 0 {
				t.Fatalf("reply %x", b)
			}
			c.ok(0, cmdWrite, 512, 3, "abc") // minimum block sizes are for those who asked
			if got := c.ok(0, cmdRead, 511, 5); string(got) != "\x00abc\x00" {
				t.Fatalf("read %q", got)
			}
		})
	}
}

// TestNegotiationEnds: what the server hangs up on.
func TestNegotiationEnds(t *testing.T) {
	_, path := startServer(t, Options{Limits: Limits{Handshake: 300 * time.Millisecond}}, memExport(1<<20))
	for _, tt := range []struct {
		name string
		send []byte
	}{
		{"unknown client flags", pack(uint32(1 << 5))},
		{"all client flags", pack(uint32(1<<32 - 1))},
		{"bad magic", pack(uint32(flagFixedNewstyle), uint64(0x1234), uint32(optList), uint32(0))},
		{"huge option", pack(uint32(flagFixedNewstyle), uint64(magicOption), uint32(optInfo), uint32(1<<32-1))},
		{"huge unknown option", pack(uint32(flagFixedNewstyle), uint64(magicOption), uint32(77), uint32(2<<20))},
		{"options without fixed newstyle", pack(uint32(0), optionBytes(optList))},
		{"nothing", nil},
		{"half an option", pack(uint32(flagFixedNewstyle), uint64(magicOption))},
		{"option without its data", pack(uint32(flagFixedNewstyle), uint64(magicOption), uint32(optInfo), uint32(20), "abc")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, path)
			c.put(tt.send)
			c.wantEnd()
		})
	}
	t.Run("endless options", func(t *testing.T) {
		c := dial(t, path)
		c.put(uint32(flagFixedNewstyle))
		go func() {
			for {
				if _, err := c.Write(optionBytes(77, make([]byte, 30<<10))); err != nil {
					return
				}
			}
		}()
		c.wantEnd()
	})
	t.Run("a client that does not read", func(t *testing.T) {
		c := dial(t, path)
		c.put(uint32(flagFixedNewstyle))
		for {
			if _, err := c.Write(optionBytes(optList)); err != nil {
				return
			}
		}
	})
}

// TestMetaContext: contexts hold for the export they were selected for, and only
// as long as nothing failed since.
func TestMetaContext(t *testing.T) {
	_, path := startServer(t, Options{}, ExportOptions{Name: "a", Device: block.NewMem(1 << 20)}, ExportOptions{Name: "b", Device: block.NewMem(1 << 20)})
	type set struct {
		export  string
		queries []string
	}
	for _, tt := range []struct {
		name string
		sets []set
		want Errno
	}{
		{"selected", []set{{"a", []string{"qemu:x", "base:allocation", "nonsense"}}}, 0},
		{"of another export", []set{{"b", []string{"base:allocation"}}}, EINVAL},
		{"never", nil, EINVAL},
		{"wildcard", []set{{"a", []string{"base:"}}}, EINVAL},
		{"replaced", []set{{"a", []string{"base:allocation"}}, {"a", nil}}, EINVAL},
		{"replaced by a failure", []set{{"a", []string{"base:allocation"}}, {"c", []string{"base:allocation"}}}, EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, path)
			c.put(uint32(flagFixedNewstyle))
			c.structured = true
			c.mustOption(optStructuredReply)
			for _, s := range tt.sets {
				c.option(optSetMetaContext, metaData(s.export, s.queries...))
			}
			c.mustOption(optGo, goData("a"))
			if _, e := c.do(0, cmdBlockStatus, 0, 4096); e != tt.want {
				t.Errorf("block status: %v, want %v", e, tt.want)
			}
		})
	}
	c := dial(t, path)
	c.put(uint32(flagFixedNewstyle))
	c.mustOption(optStructuredReply)
	for _, queries := range [][]string{nil, {"base:"}, {"x-y:", "base:allocation"}} {
		r := c.mustOption(optListMetaContext, metaData("a", queries...))
		if len(r) != 2 || r[0].kind != repMetaContext || string(r[0].data[4:]) != contextAllocation {
			t.Errorf("list of %q: %v", queries, r)
		}
	}
	if r := c.mustOption(optListMetaContext, metaData("a", "qemu:")); len(r) != 1 {
		t.Errorf("list of contexts there are not: %v", r)
	}
}

// TestGoDataSentAhead: requests may lie right behind GO in the socket.
func TestGoDataSentAhead(t *testing.T) {
	_, path := startServer(t, Options{}, memExport(1<<20))
	c := dial(t, path)
	c.put(uint32(flagFixedNewstyle), optionBytes(optGo, goData("")), requestBytes(0, cmdRead, 7, 0, 512))
	c.optionReplies(optGo)
	if k := c.chunk(512); k.cookie != 7 || k.err != 0 {
		t.Fatalf("reply %+v", k)
	}
}
