package session

import (
	"bytes"
	"encoding/json"
	"maps"
	"testing"
	"unicode/utf8"
)

// The values are one JSON object. Setting and deleting members gives what a map
// of raw messages gives, and what nobody touched passes through byte for byte.
func FuzzValues(f *testing.F) {
	f.Add([]byte(`{}`), "a", []byte(`1`), "b")
	f.Add([]byte(`{"a":1,"b":[true,null],"c":{"d":"e"}}`), "a", []byte(`"x"`), "c")
	f.Add([]byte(`{"value":"x","\u00e4":1e-7}`), "\u00e4", []byte(`{}`), "<&>")
	f.Add([]byte(` { "a" : 1 , "b" : 2 } `), "", []byte(`[]`), "a")
	f.Add([]byte(`{"a":1,"a":2}`), "a", []byte(`1`), "")
	f.Add([]byte(`{"\ud83d\ude00":1,"\u2028":2}`), "\u2028", []byte(`3`), "\U0001f600")
	f.Add([]byte("{\"a\":\"\xff\"}"), "a", []byte(`0`), "a")
	f.Fuzz(func(t *testing.T, data []byte, set string, raw []byte, deleted string) {
		var v values
		want := map[string]json.RawMessage{}
		known := json.Unmarshal(data, &want) == nil
		if err := v.reset(data); err != nil {
			if len(v.members) != 0 {
				t.Errorf("an error and %d members", len(v.members))
			}
			return // stricter than encoding/json, as the vectors say
		}
		if len(data) > 0 && !known {
			t.Fatalf("read %q, which encoding/json does not", data)
		}
		if len(v.members) != len(want) {
			t.Fatalf("%d members, encoding/json finds %d", len(v.members), len(want))
		}
		before := map[string]string{}
		for _, m := range v.members {
			before[string(m.name)] = string(m.value)
			if !bytes.Equal(m.value, want[string(m.name)]) {
				t.Errorf("%q is %q, encoding/json finds %q", m.name, m.value, want[string(m.name)])
			}
		}
		kept := bytes.Clone(data)
		if utf8.ValidString(set) && json.Valid(raw) && utf8.Valid(raw) {
			raw = bytes.TrimSpace(raw)
			v.set(set, raw)
			before[set] = string(raw)
		}
		v.delete(deleted)
		delete(before, deleted)
		if !bytes.Equal(data, kept) {
			t.Fatal("the record's data was written to")
		}
		text := v.encode()
		var again values
		if err := again.reset(text); err != nil {
			if len(raw) > 2*maxJSONDepth {
				return // set deeper than what is read; encodeValue's business
			}
			t.Fatalf("wrote %q: %v", text, err)
		}
		after := map[string]string{}
		for _, m := range again.members {
			after[string(m.name)] = string(m.value)
		}
		if !maps.Equal(before, after) {
			t.Errorf("%q gives %q, want %q", text, after, before)
		}
		if got, ok := again.get(set); ok && before[set] != string(got) {
			t.Errorf("%q is %q", set, got)
		}
	})
}
