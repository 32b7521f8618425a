package session

import (
	"bytes"
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

// A member is one name and value of a JSON object.
type member struct {
	name  []byte // decoded; a part of the object's text unless it had escapes
	value []byte // as it stands in the text, without white space around it
}

// maxJSONDepth bounds how deep arrays and objects nest; encoding/json stops at
// 10,000.
const maxJSONDepth = 1000

var errNotObject = errors.New("not one JSON object with distinct names in UTF-8")

// scanObject appends the members of the JSON object in data to dst, in order,
// and checks the whole text without decoding a value. It is stricter than
// encoding/json, which lets a second member win over the first, finds "EXP"
// and "ſub" where "exp" and "sub" are asked for, and turns bytes that are not
// UTF-8 into U+FFFD: here names are distinct and exact.
//
// It allocates only if dst is too short, a name has escapes, or there are very
// many members.
func scanObject(data []byte, dst []member) ([]member, error) {
	return scanObjectDepth(data, dst, maxJSONDepth)
}

// scanObjectDepth is scanObject with another bound for the depth.
func scanObjectDepth(data []byte, dst []member, depth int) ([]member, error) {
	s := jsonScanner{data: data, limit: depth}
	first := len(dst)
	dst, ok := s.members(dst)
	if !ok || !utf8.Valid(data) || !distinct(dst[first:]) {
		return nil, errNotObject
	}
	return dst, nil
}

// lookup returns the value of the member with this name, nil if there is none.
func lookup(members []member, name string) []byte {
	for i := range members {
		if string(members[i].name) == name {
			return members[i].value
		}
	}
	return nil
}

func distinct(members []member) bool {
	if len(members) > 32 { // pairs get expensive
		seen := make(map[string]bool, len(members))
		for _, m := range members {
			seen[string(m.name)] = true
		}
		return len(seen) == len(members)
	}
	for i, m := range members {
		for _, other := range members[:i] {
			if bytes.Equal(m.name, other.name) {
				return false
			}
		}
	}
	return true
}

// jsonScanner walks over a JSON text (RFC 8259). Its methods tell whether what
// they expect stands at data[at:], and leave at behind it.
type jsonScanner struct {
	data  []byte
	at    int
	limit int // how deep arrays and objects may nest
}

func (s *jsonScanner) members(dst []member) ([]member, bool) {
	s.space()
	if !s.take('{') {
		return nil, false
	}
	s.space()
	if !s.take('}') {
		for {
			start := s.at
			if !s.str() {
				return nil, false
			}
			name, ok := unquote(s.data[start:s.at])
			if !ok || !s.colon() {
				return nil, false
			}
			start = s.at
			if !s.value(2) {
				return nil, false
			}
			dst = append(dst, member{name, s.data[start:s.at]})
			more, ok := s.more('}')
			if !ok {
				return nil, false
			}
			if !more {
				break
			}
		}
	}
	s.space()
	return dst, s.at == len(s.data)
}

// value expects a value; if it is an array or object, it is the depth-th level.
func (s *jsonScanner) value(depth int) bool {
	if s.at == len(s.data) {
		return false
	}
	switch c := s.data[s.at]; c {
	case '"':
		return s.str()
	case '{', '[':
		return s.nested(c, depth)
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *jsonScanner) nested(open byte, depth int) bool {
	if depth > s.limit {
		return false
	}
	closing := open + 2 // ']' and '}' in ASCII
	s.at++
	s.space()
	if s.take(closing) {
		return true
	}
	for {
		if open == '{' && (!s.str() || !s.colon()) {
			return false
		}
		if !s.value(depth + 1) {
			return false
		}
		if more, ok := s.more(closing); !more {
			return ok
		}
	}
}

// more expects a comma, and tells that another element follows, or the closing
// bracket.
func (s *jsonScanner) more(closing byte) (more, ok bool) {
	s.space()
	if s.take(',') {
		s.space()
		return true, true
	}
	return false, s.take(closing)
}

func (s *jsonScanner) colon() bool {
	s.space()
	if !s.take(':') {
		return false
	}
	s.space()
	return true
}

func (s *jsonScanner) str() bool {
	if !s.take('"') {
		return false
	}
	for {
		rest := s.data[s.at:]
		i := 0
		for i < len(rest) && rest[i] >= ' ' && rest[i] != '"' && rest[i] != '\\' {
			i++
		}
		s.at += i
		switch {
		case i == len(rest) || rest[i] < ' ':
			return false
		case rest[i] == '"':
			s.at++
			return true
		case !s.escape():
			return false
		}
	}
}

func (s *jsonScanner) escape() bool {
	if s.at++; s.at == len(s.data) {
		return false
	}
	c := s.data[s.at]
	s.at++
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		_, ok := hex4(s.data[s.at:])
		s.at = min(s.at+4, len(s.data))
		return ok
	}
	return false
}

func (s *jsonScanner) number() bool {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if s.take('e') || s.take('E') {
		_ = s.take('+') || s.take('-')
		return s.digits()
	}
	return true
}

func (s *jsonScanner) digits() bool {
	rest := s.data[s.at:]
	i := 0
	for i < len(rest) && rest[i]-'0' <= 9 {
		i++
	}
	s.at += i
	return i > 0
}

func (s *jsonScanner) word(w string) bool {
	if len(s.data)-s.at < len(w) || string(s.data[s.at:s.at+len(w)]) != w {
		return false
	}
	s.at += len(w)
	return true
}

func (s *jsonScanner) take(c byte) bool {
	if s.at == len(s.data) || s.data[s.at] != c {
		return false
	}
	s.at++
	return true
}

func (s *jsonScanner) space() {
	if s.at < len(s.data) && s.data[s.at] <= ' ' { // most often there is none
		s.spaces()
	}
}

func (s *jsonScanner) spaces() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// unquote decodes a JSON string, given with its quotes. Without escapes the
// result is a part of quoted. Half of a surrogate pair is refused: it has no
// spelling in UTF-8, and encoding/json makes U+FFFD of it.
func unquote(quoted []byte) ([]byte, bool) {
	if len(quoted) < 2 || quoted[0] != '"' || quoted[len(quoted)-1] != '"' {
		return nil, false
	}
	in := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return in, bytes.IndexByte(in, '"') < 0
	}
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		c := in[0]
		if c == '"' || c == '\\' && len(in) < 2 {
			return nil, false
		}
		if c != '\\' {
			out, in = append(out, c), in[1:]
			continue
		}
		c, in = in[1], in[2:]
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := hex4(in)
			if !ok {
				return nil, false
			}
			in = in[4:]
			if utf16.IsSurrogate(r) {
				if len(in) < 6 || in[0] != '\\' || in[1] != 'u' {
					return nil, false
				}
				low, _ := hex4(in[2:])
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
					return nil, false
				}
				in = in[6:]
			}
			out = utf8.AppendRune(out, r)
		default:
			return nil, false
		}
	}
	return out, true
}

// hex4 reads the four digits of a \u escape.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
