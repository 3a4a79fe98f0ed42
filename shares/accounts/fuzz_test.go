package accounts

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lunless/smbstore/fscc"
)

// What parses, is written back as something that parses to the same.
func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"machine_sid":"S-1-5-21-1-2-3","next_rid":1001,"later":[1],"users":[{"rid":1000,"name":"a",` +
		`"nt_hash":"00112233445566778899aabbccddeeff","password_set":"2026-01-02T03:04:05Z","quota":"1"}],` +
		`"groups":[{"sid":"S-1-5-32-544","name":"Administrators","members":["S-1-5-21-1-2-3-1000"],"x":null}]}`))
	opts := cmp.Options{cmp.AllowUnexported(fileJSON{}, userJSON{}, groupJSON{}), cmp.Comparer(func(a, b fscc.SID) bool { return a == b }),
		cmp.Comparer(func(a, b json.RawMessage) bool { return sameJSON(a, b) })}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeFile(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeFile(out)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if d := cmp.Diff(m, again, opts); d != "" {
			t.Error(d)
		}
	})
}

// sameJSON compares values: spaces and escapes may change.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && cmp.Equal(x, y)
}
