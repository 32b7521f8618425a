package session_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/distsession/session"
)

const typicalObject = `{"user_id":9007199254740993,"name":"Ada Lovelace","roles":["admin","editor","author"],` +
	`"cart":[{"sku":"A-100","n":2,"cents":1999},{"sku":"B-200","n":1,"cents":4550},{"sku":"C-300","n":10,"cents":25}],` +
	`"csrf":"Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6","seen":"2026-11-22T10:11:12.123456789Z","note":"` +
	"caf\u00e9 \\\"quoted\\\" \\u00e9" + `"}`

func TestScanObject(t *testing.T) {
	nested := func(n int) string {
		return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
	}
	for _, tt := range []struct {
		why, in string
		names   []string // nil: refused
		values  []string
	}{
		{"empty object", `{}`, []string{}, nil},
		{"white space around everything", " \t\r\n{ \"a\" : 1 , \"b\" : [ 2 ] } ", []string{"a", "b"}, []string{"1", "[ 2 ]"}},
		{"values stay as written", `{"n":1.50e+2,"o":{"x" :1},"s":"\u0041"}`, []string{"n", "o", "s"}, []string{"1.50e+2", `{"x" :1}`, `"\u0041"`}},
		{"names are decoded", `{"\u0061\"":1,"\ud83d\ude00":2}`, []string{`a"`, "\U0001F600"}, []string{"1", "2"}},
		{"names differ in case", `{"exp":1,"EXP":2,"ſub":3,"sub":4}`, []string{"exp", "EXP", "ſub", "sub"}, []string{"1", "2", "3", "4"}},
		{"a name may be empty", `{"":1}`, []string{""}, []string{"1"}},
		{"duplicates inside a value are its own matter", `{"a":{"b":1,"b":2}}`, []string{"a"}, []string{`{"b":1,"b":2}`}},
		{"as deep as allowed", nested(session.MaxJSONDepth), []string{"a"}, []string{nested(session.MaxJSONDepth)[5 : 5+2*(session.MaxJSONDepth-1)]}},

		{"too deep", nested(session.MaxJSONDepth + 1), nil, nil},
		{"a name twice", `{"a":1,"a":2}`, nil, nil},
		{"a name twice, once escaped", `{"a":1,"\u0061":2}`, nil, nil},
		{"a name twice among many", manyMembers(100, "k7"), nil, nil},
		{"nothing", ``, nil, nil},
		{"array", `[]`, nil, nil},
		{"null", `null`, nil, nil},
		{"two objects", `{}{}`, nil, nil},
		{"byte order mark", "\ufeff{}", nil, nil},
		{"trailing NUL", "{}\x00", nil, nil},
		{"trailing comma", `{"a":1,}`, nil, nil},
		{"comment", `{"a":1/**/}`, nil, nil},
		{"unquoted name", `{a:1}`, nil, nil},
		{"single quotes", `{'a':1}`, nil, nil},
		{"no value", `{"a":}`, nil, nil},
		{"leading zero", `{"a":01}`, nil, nil},
		{"plus", `{"a":+1}`, nil, nil},
		{"no digit after the point", `{"a":1.}`, nil, nil},
		{"no exponent", `{"a":1e}`, nil, nil},
		{"NaN", `{"a":NaN}`, nil, nil},
		{"control character in a string", "{\"a\":\"\n\"}", nil, nil},
		{"unknown escape", `{"a":"\x41"}`, nil, nil},
		{"short escape", `{"a":"\u41"}`, nil, nil},
		{"not UTF-8, which encoding/json would replace", "{\"a\":\"\xff\"}", nil, nil},
		{"overlong UTF-8", "{\"a\":\"\xc0\xaf\"}", nil, nil},
		{"half a surrogate pair in a name", `{"\ud800":1}`, nil, nil},
		{"wrong half of a pair in a name", `{"\ud800\u0041":1}`, nil, nil},
		{"mismatched brackets", `{"a":[1}}`, nil, nil},
	} {
		t.Run(tt.why, func(t *testing.T) {
			names, values, err := session.ScanObject([]byte(tt.in))
			if tt.names == nil {
				if err == nil {
					t.Fatalf("accepted, with the names %q", names)
				}
				return
			}
			if err != nil || !slices.Equal(names, tt.names) || !slices.Equal(values, tt.values) {
				t.Errorf("got %q %q %v\nwant %q %q", names, values, err, tt.names, tt.values)
			}
		})
	}
	t.Run("cut anywhere", func(t *testing.T) {
		for n := range len(typicalObject) {
			if _, _, err := session.ScanObject([]byte(typicalObject[:n])); err == nil {
				t.Errorf("accepted when cut to %d bytes", n)
			}
		}
	})
}

// manyMembers is an object of n members k0, k1, … and one more.
func manyMembers(n int, extra string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`,"k` + strconv.Itoa(i) + `":0`)
	}
	return `{"` + extra + `":0` + b.String() + `}`
}

func TestScanObjectAllocatesNothing(t *testing.T) {
	scan, data := session.ScanObjectRoom(), []byte(typicalObject)
	if n := testing.AllocsPerRun(100, func() { scan(data) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkScanObject(b *testing.B) {
	scan, data := session.ScanObjectRoom(), []byte(typicalObject)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if n, err := scan(data); n != 7 || err != nil {
			b.Fatal(n, err)
		}
	}
}

// FuzzScanObject compares with encoding/json: what is accepted here reads the
// same there, and what is refused here is refused there too or breaks one of
// the rules that are stricter here.
func FuzzScanObject(f *testing.F) {
	for _, s := range []string{`{}`, typicalObject, `{"a":1,"a":2}`, `{"\ud83d\ude00":[{}]}`, `{"a":-0.1e+5}`, "{\"\xff\":1}", `[{}]`, ` {"a" : [ ] }`, `{"\udead":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		names, values, err := session.ScanObject(data)
		var want map[string]json.RawMessage
		wantErr := json.Unmarshal(data, &want)
		if err == nil {
			if wantErr != nil || len(want) != len(names) {
				t.Fatalf("accepted %q, encoding/json has %d members, %v", data, len(want), wantErr)
			}
			for i, name := range names {
				if string(want[name]) != values[i] {
					t.Fatalf("%q: %q is %q, in encoding/json %q", data, name, values[i], want[name])
				}
			}
			return
		}
		stricter := !utf8.Valid(data) || topLevelNames(data) != len(want) || bytes.Contains(data, []byte(`\u`)) ||
			bytes.Count(data, []byte("["))+bytes.Count(data, []byte("{")) > session.MaxJSONDepth
		if wantErr == nil && want != nil && !stricter {
			t.Fatalf("refused %q, which encoding/json reads", data)
		}
	})
}

// topLevelNames counts the members of a valid object, duplicates too.
func topLevelNames(data []byte) int {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return -1
	}
	n := 0
	for d.More() {
		var v json.RawMessage
		if _, err := d.Token(); err != nil || d.Decode(&v) != nil {
			return -1
		}
		n++
	}
	return n
}
