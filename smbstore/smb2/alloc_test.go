package smb2

import "testing"

// hotCodecs are what every READ and WRITE goes through.
func hotCodecs() map[string]func() error {
	msg := make([]byte, 256)
	header := Header{Command: CommandRead, Flags: FlagSigned, MessageID: 1, TreeID: 2, SessionID: 3}
	encoded := func(m Message, payload int) []byte {
		b := make([]byte, m.Size()+payload)
		header.Encode(b)
		m.Encode(b)
		return b
	}
	readReq := ReadRequest{Length: 4096, FileID: FileID{1, 2}}
	readResp := ReadResponse{DataLength: 64}
	writeReq := WriteRequest{Length: 64, FileID: FileID{1, 2}}
	writeResp := WriteResponse{Count: 64}
	readReqMsg, readRespMsg := encoded(&readReq, 0), encoded(&readResp, 64)
	writeReqMsg, writeRespMsg := encoded(&writeReq, 64), encoded(&writeResp, 0)
	encode := func(f func([]byte)) func() error {
		return func() error { f(msg); return nil }
	}
	return map[string]func() error{
		"header/encode":         encode(header.Encode),
		"header/decode":         func() error { var h Header; return h.Decode(readReqMsg) },
		"check":                 func() error { return CheckRequest(CommandRead, readReqMsg) },
		"split":                 func() error { _, _, err := SplitCompound(readReqMsg); return err },
		"read request/encode":   encode(readReq.Encode),
		"read request/decode":   func() error { var r ReadRequest; return r.Decode(readReqMsg) },
		"read response/encode":  encode(readResp.Encode),
		"read response/decode":  func() error { var r ReadResponse; return r.Decode(readRespMsg) },
		"write request/encode":  encode(writeReq.Encode),
		"write request/decode":  func() error { var r WriteRequest; return r.Decode(writeReqMsg) },
		"write response/encode": encode(writeResp.Encode),
		"write response/decode": func() error { var r WriteResponse; return r.Decode(writeRespMsg) },
	}
}

func TestHotCodecsDoNotAllocate(t *testing.T) {
	for name, f := range hotCodecs() {
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := testing.AllocsPerRun(100, func() { f() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkCodecs(b *testing.B) {
	for name, f := range hotCodecs() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
