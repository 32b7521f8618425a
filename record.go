package session

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The text of a record, for stores that keep bytes: one line, then Data as it
// is, so that any language can read the values.
//
//	s1 <expires> <seen> <trail> <version> <created> <deadline> <signed in> <flags> <user> <device> <crc>\n<data>
//
//	expires, seen   milliseconds since 1970 in 13 digits, at a fixed place so
//	                that a touch can overwrite them where they stand
//	trail           the Trail of the last three writes, 18 characters, at a
//	                fixed place so that a script can read it
//	created         milliseconds since 1970
//	deadline,       milliseconds after created; "-" for the zero time
//	signed in
//	flags           "p" Persist, "r" Replaced, "-" none
//	user, device    escaped as in a URL's query
//	crc             CRC-32C, in 8 hexadecimal digits, of the ID, of what stands
//	                between trail and crc, and of the data: it finds damage, and
//	                an answer that was meant for another key, but no forgery
const (
	recordMagic = "s1 "
	timeDigits  = 13

	// The places of the fixed fields in the text.
	RecordExpires = len(recordMagic)
	RecordSeen    = RecordExpires + timeDigits + 1
	RecordTrail   = RecordSeen + timeDigits + 1
	recordRest    = RecordTrail + TrailLen + 1

	maxMilli = 9_999_999_999_999 // 13 digits: the year 2286
)

// A Trail names the writes that made the last three versions of a record, the
// newest first. A writer that got no answer finds its own name there, or not,
// and so tells a lost answer from a conflict.
type Trail string

const (
	writeLen = 6 // 36 bits: only the writers of one version have to differ
	TrailLen = 3 * writeLen
)

// NewTrail is the trail of a record that was never written.
func NewTrail() Trail { return Trail(strings.Repeat("-", TrailLen)) }

// Next returns the trail after one more write, whose name is random.
func (t Trail) Next() Trail { return Trail(newWrite()) + t[:TrailLen-writeLen] }

// Write is the name of the newest write.
func (t Trail) Write() string { return string(t[:writeLen]) }

// Has tells whether the write of this name made the version that is age
// versions older than the trail's newest.
func (t Trail) Has(write string, age int64) bool {
	at := age * writeLen
	return age >= 0 && at+writeLen <= TrailLen && string(t[at:at+writeLen]) == write
}

// newWrite returns a name for one write. It has to be different, not secret.
func newWrite() string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var b [writeLen]byte
	n := rand.Uint64()
	for i := range b {
		b[i] = digits[n&63]
		n >>= 6
	}
	return string(b[:])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// EncodeRecord returns the text of rec as its next version: rec.Version+1,
// with Expires cut to the Deadline.
func EncodeRecord(rec *Record, trail Trail) ([]byte, error) {
	expires := rec.Expires
	if !rec.Deadline.IsZero() && expires.After(rec.Deadline) {
		expires = rec.Deadline
	}
	for _, t := range []time.Time{expires, rec.Seen, rec.Created, rec.Deadline, rec.SignedIn} {
		if ms := t.UnixMilli(); !t.IsZero() && (ms < 0 || ms > maxMilli) {
			return nil, fmt.Errorf("session: record %s: a time outside of 1970 to 2286", rec.ID)
		}
	}
	b := make([]byte, 0, recordRest+96+len(rec.User)+len(rec.Device)+len(rec.Data))
	b = append(b, recordMagic...)
	b = appendMilli(b, expires)
	b = append(b, ' ')
	b = appendMilli(b, rec.Seen)
	b = append(b, ' ')
	b = append(b, trail...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, rec.Version+1, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, milli(rec.Created), 10)
	b = append(b, ' ')
	b = appendAfter(b, rec.Created, rec.Deadline)
	b = append(b, ' ')
	b = appendAfter(b, rec.Created, rec.SignedIn)
	b = append(b, ' ')
	switch {
	case rec.Persist && rec.Replaced:
		b = append(b, "pr"...)
	case rec.Persist:
		b = append(b, 'p')
	case rec.Replaced:
		b = append(b, 'r')
	default:
		b = append(b, '-')
	}
	b = append(b, ' ')
	b = append(b, url.QueryEscape(rec.User)...)
	b = append(b, ' ')
	b = append(b, url.QueryEscape(rec.Device)...)
	sum := checksum(rec.ID, b[recordRest:], rec.Data)
	b = append(b, ' ')
	b = appendHex32(b, sum)
	b = append(b, '\n')
	return append(b, rec.Data...), nil
}

// DecodeRecord reads what EncodeRecord wrote; id is the key that it stood
// under. What cannot be decoded is ErrNotFound, wrapped with the reason. Data
// is a part of text.
func DecodeRecord(id string, text []byte) (*Record, Trail, error) {
	rec, trail, err := decodeRecord(id, text)
	if err != nil {
		return nil, "", fmt.Errorf("%w: record %s cannot be decoded: %w", ErrNotFound, id, err)
	}
	rec.ID = id
	return rec, trail, nil
}

// checksum covers the ID, which is not in the text: a client of a server that
// is one answer behind would hand one user's session to another
// (CVE-2023-28858).
func checksum(id string, head, data []byte) uint32 {
	var in [tokenLen]byte // an ID fits: no allocation
	sum := crc32.Checksum(append(in[:0], id...), castagnoli)
	return crc32.Update(crc32.Update(sum, castagnoli, head), castagnoli, data)
}

func decodeRecord(id string, text []byte) (*Record, Trail, error) {
	end := bytes.IndexByte(text, '\n')
	switch {
	case end < 0 || end < recordRest:
		return nil, "", errors.New("no header")
	case string(text[:RecordExpires]) != recordMagic:
		return nil, "", errors.New("not of a known format")
	case text[RecordSeen-1] != ' ' || text[RecordTrail-1] != ' ' || text[recordRest-1] != ' ':
		return nil, "", errors.New("fixed fields out of place")
	}
	head := string(text[:end])
	rest, sum, ok := cutLast(head[recordRest:])
	if !ok || len(sum) != 8 {
		return nil, "", errors.New("no checksum")
	}
	rec := &Record{Data: text[end+1:]}
	want := checksum(id, text[recordRest:recordRest+len(rest)], rec.Data)
	if got, err := strconv.ParseUint(sum, 16, 32); err != nil || uint32(got) != want || !lowerHex(sum) {
		return nil, "", errors.New("checksum differs")
	}
	d := fieldReader{rest: rest}
	rec.Version = d.int()
	created := d.int()
	rec.Created = fromMilli(created)
	rec.Deadline = d.after(created)
	rec.SignedIn = d.after(created)
	switch d.next() {
	case "-":
	case "p":
		rec.Persist = true
	case "r":
		rec.Replaced = true
	case "pr":
		rec.Persist, rec.Replaced = true, true
	default:
		d.failed = true
	}
	rec.User = d.text()
	rec.Device = d.text()
	rec.Expires = d.milli(head[RecordExpires : RecordExpires+timeDigits])
	rec.Seen = d.milli(head[RecordSeen : RecordSeen+timeDigits])
	if d.failed || rec.Version < 1 {
		return nil, "", errors.New("a field is malformed")
	}
	return rec, Trail(head[RecordTrail : RecordTrail+TrailLen]), nil
}

// fieldReader takes fields off a line; failed says that one was malformed.
type fieldReader struct {
	rest   string
	failed bool
}

func (d *fieldReader) next() string {
	f, rest, _ := strings.Cut(d.rest, " ")
	d.rest = rest
	return f
}

func (d *fieldReader) number(f string) int64 {
	n, err := strconv.ParseInt(f, 10, 64)
	if err != nil {
		d.failed = true
	}
	return n
}

func (d *fieldReader) int() int64 { return d.number(d.next()) }

func (d *fieldReader) after(created int64) time.Time {
	f := d.next()
	if f == "-" {
		return time.Time{}
	}
	return time.UnixMilli(created + d.number(f)).UTC()
}

func (d *fieldReader) text() string {
	s, err := url.QueryUnescape(d.next())
	if err != nil {
		d.failed = true
	}
	return s
}

func (d *fieldReader) milli(f string) time.Time {
	for _, c := range []byte(f) {
		if c < '0' || c > '9' {
			d.failed = true
		}
	}
	return fromMilli(d.number(f))
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func lowerHex(s string) bool { return strings.ToLower(s) == s }

// milli is the time in milliseconds since 1970, 0 for the zero time.
func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// FormatMilli writes a time as the fixed fields of a record's text have it.
func FormatMilli(t time.Time) string { return string(appendMilli(nil, t)) }

func appendMilli(b []byte, t time.Time) []byte {
	var d [timeDigits]byte
	n := milli(t)
	for i := timeDigits - 1; i >= 0; i-- {
		d[i] = byte('0' + n%10)
		n /= 10
	}
	return append(b, d[:]...)
}

func appendAfter(b []byte, created, t time.Time) []byte {
	if t.IsZero() {
		return append(b, '-')
	}
	return strconv.AppendInt(b, t.UnixMilli()-milli(created), 10)
}

func appendHex32(b []byte, n uint32) []byte {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}
