package session_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The hostile vectors: every file in testdata/hostile/<group> is a list of
// inputs, each with the reason for it, a source (an RFC, a CVE, a row of the
// project's collection of attacks), and what has to come of it. A file starts
// with what is accepted, so that the rest is not refused for another reason.
//
// In texts, <<x*3>> stands for xxx and <<byte:ff>> for that byte.

// hostileNow is the clock of every vector.
var hostileNow = time.UnixMilli(1795342272345)

func hostileClock() *testClock { return &testClock{now: hostileNow} }

// hostileVectors calls test for each vector of a group. V has the fields name,
// why, source and expect among others.
func hostileVectors[V any](t *testing.T, group string, test func(t *testing.T, v V)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "hostile", group, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors for %s: %v", group, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			for _, raw := range readVectors(t, file) {
				var v V
				d := json.NewDecoder(strings.NewReader(string(raw)))
				d.DisallowUnknownFields()
				if err := d.Decode(&v); err != nil {
					t.Fatalf("%s: %v", raw, err)
				}
				var head struct{ Name string }
				json.Unmarshal(raw, &head)
				t.Run(head.Name, func(t *testing.T) { test(t, v) })
			}
		})
	}
}

func readVectors(t *testing.T, file string) []json.RawMessage {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []json.RawMessage
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%s: %d vectors, %v", file, len(vectors), err)
	}
	for i, raw := range vectors {
		var v struct{ Name, Why, Source, Expect string }
		if err := json.Unmarshal(raw, &v); err != nil || v.Name == "" || v.Why == "" || v.Source == "" || v.Expect == "" {
			t.Errorf("%s: vector %d (%q): %v, or name, why, source or expect is empty", file, i+1, v.Name, err)
		}
		if i == 0 && v.Expect != "session" {
			t.Errorf("%s does not start with what is accepted", file)
		}
	}
	return vectors
}

var (
	repeated = regexp.MustCompile(`(?s)<<(.+?)\*(\d+)>>`)
	bytesIn  = regexp.MustCompile(`<<byte:([0-9a-f]{2})>>`)
)

func expand(s string) string {
	s = repeated.ReplaceAllStringFunc(s, func(m string) string {
		parts := repeated.FindStringSubmatch(m)
		n, _ := strconv.Atoi(parts[2])
		return strings.Repeat(parts[1], n)
	})
	return bytesIn.ReplaceAllStringFunc(s, func(m string) string {
		b, _ := hex.DecodeString(bytesIn.FindStringSubmatch(m)[1])
		return string(b)
	})
}
