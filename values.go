package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"unicode/utf8"
)

// values are a session's values as one request sees them: the members of one
// JSON object, each left encoded until somebody asks for it. The slices that
// they hold are never written to.
type values struct {
	members []member
	few     [8]member // room for the members of most sessions
}

// reset makes the view that of data.
func (v *values) reset(data []byte) error {
	v.members = v.few[:0]
	if len(data) == 0 {
		return nil
	}
	var err error
	v.members, err = scanObject(data, v.members)
	return err
}

// read makes the view that of rec.
func (v *values) read(rec *Record) error {
	shared, _ := rec.Tag.(*scanned)
	if shared == nil || !shared.of(rec.Data) {
		return v.reset(rec.Data)
	}
	if m := shared.members.Load(); m != nil {
		v.members = append(v.few[:0], *m...)
		return nil
	}
	if err := v.reset(rec.Data); err != nil {
		return err
	}
	m := slices.Clone(v.members)
	shared.members.Store(&m)
	return nil
}

// scanned is what a store that answers from its own memory leaves in Tag: the
// members of the record's Data, found once for all who load it.
type scanned struct {
	data    []byte
	members atomic.Pointer[[]member]
}

// of tells whether data is what was scanned: a wrapper may have passed the Tag
// on with other data.
func (s *scanned) of(data []byte) bool {
	return len(data) == len(s.data) && len(data) > 0 && &data[0] == &s.data[0]
}

func (v *values) find(name string) int {
	for i := range v.members {
		if string(v.members[i].name) == name {
			return i
		}
	}
	return -1
}

func (v *values) get(name string) (raw []byte, ok bool) {
	if i := v.find(name); i >= 0 {
		return v.members[i].value, true
	}
	return nil, false
}

func (v *values) set(name string, raw []byte) {
	if i := v.find(name); i >= 0 {
		v.members[i].value = raw
		return
	}
	v.members = append(v.members, member{name: []byte(name), value: raw})
}

func (v *values) delete(name string) {
	if i := v.find(name); i >= 0 {
		v.members = slices.Delete(v.members, i, i+1)
	}
}

// encode returns the view as one JSON object.
func (v *values) encode() []byte {
	n := 2
	for _, m := range v.members {
		n += len(m.name) + len(m.value) + 4
	}
	b := append(make([]byte, 0, n), '{')
	for i, m := range v.members {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendName(b, m.name)
		b = append(b, ':')
		b = append(b, m.value...)
	}
	return append(b, '}')
}

func appendName(b, name []byte) []byte {
	if plainText(name) {
		b = append(b, '"')
		b = append(b, name...)
		return append(b, '"')
	}
	q, _ := json.Marshal(string(name)) // a string never fails
	return append(b, q...)
}

// plainText tells whether s stands in JSON as it is, by the rules of
// encoding/json: ASCII without controls, quotes, backslashes or HTML.
func plainText[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// An op is one change that a request made, kept so that it can be made again
// on what another request saved meanwhile.
type op struct {
	name  string
	apply func(v *values) error
	sets  bool // the outcome does not depend on the value before
}

var errNotUTF8 = errors.New("holds text that is not UTF-8")

// encodeValue returns v as JSON. encoding/json would turn bytes that are not
// UTF-8 into U+FFFD without a word; here they are an error.
func encodeValue[T any](v T) ([]byte, error) {
	switch v := any(v).(type) {
	case string:
		if plainText(v) {
			b := make([]byte, 0, len(v)+2)
			b = append(b, '"')
			b = append(b, v...)
			return append(b, '"'), nil
		}
	case int:
		return strconv.AppendInt(nil, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(nil, v, 10), nil
	case bool:
		return strconv.AppendBool(nil, v), nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(b) || hasReplacement(b) {
		return nil, errNotUTF8
	}
	if scan := (jsonScanner{data: b, limit: maxJSONDepth}); !scan.value(2) {
		return nil, fmt.Errorf("nests deeper than %d", maxJSONDepth)
	}
	return b, nil
}

// hasReplacement finds \ufffd as an escape, which is how json.Marshal writes a
// byte that is not UTF-8. A U+FFFD in valid text it writes as the character.
func hasReplacement(b []byte) bool {
	escape := []byte(`\ufffd`)
	for at := 0; ; {
		i := bytes.Index(b[at:], escape)
		if i < 0 {
			return false
		}
		i += at
		slashes := 0
		for j := i - 1; j >= 0 && b[j] == '\\'; j-- {
			slashes++
		}
		if slashes%2 == 0 {
			return true
		}
		at = i + 1
	}
}

// decodeValue reads a value. The common types take no detour through
// reflection.
func decodeValue[T any](raw []byte) (T, error) {
	var v T
	if decodeSimple(raw, &v) {
		return v, nil
	}
	return decodeAny[T](raw)
}

func decodeSimple[T any](raw []byte, v *T) bool {
	switch p := any(v).(type) {
	case *string:
		if n := len(raw); n >= 2 && raw[0] == '"' && raw[n-1] == '"' && plainString(raw[1:n-1]) {
			*p = string(raw[1 : n-1])
			return true
		}
	case *int:
		n, err := strconv.Atoi(string(raw))
		if err == nil {
			*p = n
		}
		return err == nil
	case *int64:
		n, err := strconv.ParseInt(string(raw), 10, 64)
		if err == nil {
			*p = n
		}
		return err == nil
	case *bool:
		*p = string(raw) == "true"
		return *p || string(raw) == "false"
	}
	return false
}

// plainString tells whether the inside of a JSON string means what it says.
func plainString(s []byte) bool {
	for _, c := range s {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func decodeAny[T any](raw []byte) (v T, err error) {
	err = json.Unmarshal(raw, &v)
	return v, err
}

// valueError is a value that cannot be kept: the handler's mistake, not the
// store's. It names the key and the reason, never the value.
type valueError struct {
	key string
	err error
}

func (e *valueError) Error() string { return fmt.Sprintf("session: value %q: %v", e.key, e.err) }
func (e *valueError) Unwrap() error { return e.err }
