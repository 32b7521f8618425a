// Package userindex is the text of the item that names a user's sessions, for
// stores that keep bytes under keys and compare them.
package userindex

import (
	"bytes"
	crand "crypto/rand"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session"
)

// An Index is the sessions of a user, the newest last. Its text is one line,
// then one for each:
//
//	i1 <write> <crc>\n
//	<id> <deadline> <entered>\n
//	…
//
//	write     a random name of this write: no two texts of an item are the
//	          same (Infinispan compares the old value, not only its number)
//	crc       CRC-32C, in 8 hexadecimal digits, of the item's key, of write and
//	          of the lines: it finds damage, and an answer for another key
//	id        of the session, escaped as in a URL's query
//	deadline  when the entry is of no use any more, in seconds since 1970; "-"
//	          for never
//	entered   when it was written, in seconds since 1970
type Index []Entry

// An Entry is one session.
type Entry struct {
	ID                string
	Deadline, Entered int64 // seconds since 1970
}

const (
	magic     = "i1 "
	writeLen  = 8
	entrySize = 43 + 1 + 10 + 1 + 10 + 1 // bytes, mostly

	// Header is how many bytes the text of an empty index has.
	Header = len(magic) + writeLen + 1 + 8 + 1

	// Never is the deadline of an entry that is always of use.
	Never = int64(1<<63 - 1)

	// Late is how long an entry outlives its deadline: another node's clock may
	// be behind.
	Late = time.Hour

	// Underway is the time in which a sign-in has written its record, or never
	// will.
	Underway = 10 * time.Minute

	windowFrom = 64 // entries from which a sign-in looks for ended ones
	windowLen  = 16 // entries that it looks at
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errText = errors.New("the user's index cannot be decoded")

// body returns the lines of an index that is whole.
func body(key string, text []byte) ([]byte, error) {
	if len(text) < Header || string(text[:len(magic)]) != magic ||
		text[Header-10] != ' ' || text[Header-1] != '\n' {
		return nil, errText
	}
	lines := text[Header:]
	sum := checksum(key, text[len(magic):Header-10], lines)
	if string(text[Header-9:Header-1]) != string(appendSum(nil, sum)) {
		return nil, errText
	}
	return lines, nil
}

// Vouches tells whether the index has the session. It decodes nothing, for a
// user may have thousands.
func Vouches(key string, text []byte, id string) (bool, error) {
	if _, err := body(key, text); err != nil {
		return false, err
	}
	var line [64]byte
	want := append(line[:0], '\n')
	want = append(want, url.QueryEscape(id)...)
	return bytes.Contains(text[Header-1:], append(want, ' ')), nil
}

// Parse reads the text of the item under key; none is an error.
func Parse(key string, text []byte) (Index, error) {
	lines, err := body(key, text)
	if err != nil {
		return nil, err
	}
	ix := make(Index, 0, len(lines)/entrySize+1)
	for line := range strings.Lines(string(lines)) {
		id, times, ok := strings.Cut(line, " ")
		deadline, entered, ok2 := strings.Cut(times, " ")
		entered, ok3 := strings.CutSuffix(entered, "\n")
		e := Entry{Deadline: Never}
		var errs [3]error
		e.ID, errs[0] = url.QueryUnescape(id)
		if deadline != "-" {
			e.Deadline, errs[1] = strconv.ParseInt(deadline, 10, 64)
		}
		e.Entered, errs[2] = strconv.ParseInt(entered, 10, 64)
		if !ok || !ok2 || !ok3 || id == "" || errors.Join(errs[:]...) != nil {
			return nil, errText
		}
		ix = append(ix, e)
	}
	return ix, nil
}

// Encode returns the text. No two texts are the same.
func (ix Index) Encode(key string) []byte {
	b := make([]byte, Header, Header+len(ix)*(entrySize+2))
	for _, e := range ix {
		b = e.append(b)
	}
	copy(b, magic+crand.Text()[:writeLen]+" ")
	sum := checksum(key, b[len(magic):Header-10], b[Header:])
	copy(b[Header-9:], appendSum(nil, sum))
	b[Header-1] = '\n'
	return b
}

func (e Entry) append(b []byte) []byte {
	b = append(b, url.QueryEscape(e.ID)...)
	b = append(b, ' ')
	if e.Deadline == Never {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, e.Deadline, 10)
	}
	b = append(b, ' ')
	b = strconv.AppendInt(b, e.Entered, 10)
	return append(b, '\n')
}

func checksum(key string, write, lines []byte) uint32 {
	sum := crc32.Checksum([]byte(key), castagnoli)
	return crc32.Update(crc32.Update(sum, castagnoli, write), castagnoli, lines)
}

func appendSum(b []byte, sum uint32) []byte {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[sum>>shift&15])
	}
	return b
}

// Find returns the place of a session's entry, -1 if it has none.
func (ix Index) Find(id string) int {
	return slices.IndexFunc(ix, func(e Entry) bool { return e.ID == id })
}

// Trim drops what is of no use any more, and then, while the text is larger
// than limit, the sessions that signed in first: those are cut.
func (ix Index) Trim(now time.Time, limit int) (kept, cut Index) {
	over := now.Add(-Late).Unix()
	ix = slices.DeleteFunc(ix, func(e Entry) bool { return e.Deadline <= over })
	size := Header
	from := len(ix) // the newest stand last
	for from > 0 {
		size += len(ix[from-1].append(nil))
		if size > limit {
			break
		}
		from--
	}
	return ix[from:], ix[:from]
}

// Window returns some entries at random, if there are many. Each sign-in adds
// one entry and looks at these, so that few of those that stand there have
// ended.
func (ix Index) Window() Index {
	if len(ix) < windowFrom {
		return nil
	}
	from := rand.N(len(ix) - windowLen + 1)
	return ix[from : from+windowLen]
}

// Ended returns the IDs of the entries whose session is not among the live
// ones. A record that is not there may be that of a sign-in under way: it is
// not ended yet.
func (ix Index) Ended(live []*session.Record, now time.Time) map[string]bool {
	over := now.Add(-Underway).Unix()
	ended := map[string]bool{}
	for _, e := range ix {
		if e.Entered < over && !slices.ContainsFunc(live, func(r *session.Record) bool { return r.ID == e.ID }) {
			ended[e.ID] = true
		}
	}
	return ended
}

// Without returns the index without these sessions.
func (ix Index) Without(ids map[string]bool) Index {
	return slices.DeleteFunc(ix, func(e Entry) bool { return ids[e.ID] })
}

// End is when the last entry is of no use any more; ok is false for never.
func (ix Index) End() (end time.Time, ok bool) {
	last := int64(0)
	for _, e := range ix {
		if e.Deadline == Never {
			return time.Time{}, false
		}
		last = max(last, e.Deadline)
	}
	return time.Unix(last, 0).Add(Late), true
}

// Deadline is the deadline of a session's entry: touches move Expires up
// to the Deadline, so it is that.
func Deadline(deadline time.Time) int64 {
	if deadline.IsZero() {
		return Never
	}
	return deadline.Add(time.Second - 1).Unix()
}
