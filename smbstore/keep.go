package smbstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// unknown holds the fields of a JSON object that this version does not know, so
// that a newer one's survive being read, changed and written by this one.
type unknown map[string]json.RawMessage

// decodeKeeping decodes an object into the struct v points to and returns what
// v has no field for.
func decodeKeeping(data []byte, v any) (unknown, error) {
	if err := json.Unmarshal(data, v); err != nil {
		return nil, err
	}
	var all unknown
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	for _, f := range fieldNames(reflect.TypeOf(v).Elem()) {
		for k := range all {
			// The decoder takes names in any case, so none of them is unknown.
			if strings.EqualFold(k, f) {
				delete(all, k)
			}
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// encodeKeeping encodes the struct v with the unknown fields after its own.
func encodeKeeping(v any, u unknown) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil || len(u) == 0 {
		return b, err
	}
	if len(b) < 2 || b[len(b)-1] != '}' {
		return nil, fmt.Errorf("%T is no JSON object", v)
	}
	names := make([]string, 0, len(u))
	for k := range u {
		names = append(names, k)
	}
	slices.Sort(names)
	out := bytes.NewBuffer(b[:len(b)-1])
	for _, k := range names {
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		key, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		out.Write(key)
		out.WriteByte(':')
		out.Write(u[k])
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}
