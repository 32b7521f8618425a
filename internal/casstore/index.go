package casstore

import (
	"bytes"
	"crypto/rand"
	"errors"
	"hash/crc32"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The item that vouches for a user's sessions: one line, then one for each.
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
const (
	indexMagic  = "i1 "
	indexWrite  = 8
	indexHeader = len(indexMagic) + indexWrite + 1 + 8 + 1
	indexNever  = int64(1<<63 - 1)
	indexEntry  = 43 + 1 + 10 + 1 + 10 + 1 // bytes, mostly
	indexLate   = 60 * 60                  // seconds that an entry outlives its deadline: another node's clock may be behind
)

// Underway is how long an entry stays that has no record: by then a sign-in has
// written its record, or never will.
const Underway = 10 * time.Minute

// Index is what a user's index says.
type Index []entry

type entry struct {
	id                string
	deadline, entered int64 // seconds since 1970
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errIndex = errors.New("the user's index cannot be decoded")

// body returns the lines of an index that is whole.
func body(key string, text []byte) ([]byte, error) {
	if len(text) < indexHeader || string(text[:len(indexMagic)]) != indexMagic ||
		text[indexHeader-10] != ' ' || text[indexHeader-1] != '\n' {
		return nil, errIndex
	}
	lines := text[indexHeader:]
	sum := indexSum(key, text[len(indexMagic):indexHeader-10], lines)
	if string(text[indexHeader-9:indexHeader-1]) != string(appendSum(nil, sum)) {
		return nil, errIndex
	}
	return lines, nil
}

// vouches tells whether the index has the session. It decodes nothing, for a
// user may have thousands.
func vouches(key string, text []byte, id string) (bool, error) {
	if _, err := body(key, text); err != nil {
		return false, err
	}
	var line [64]byte
	want := append(line[:0], '\n')
	want = append(want, url.QueryEscape(id)...)
	return bytes.Contains(text[indexHeader-1:], append(want, ' ')), nil
}

// ParseIndex reads the text of the index that stands under a key.
func ParseIndex(key string, text []byte) (Index, error) {
	lines, err := body(key, text)
	if err != nil {
		return nil, err
	}
	ix := make(Index, 0, len(lines)/indexEntry+1)
	for line := range strings.Lines(string(lines)) {
		id, times, ok := strings.Cut(line, " ")
		deadline, entered, ok2 := strings.Cut(times, " ")
		entered, ok3 := strings.CutSuffix(entered, "\n")
		e := entry{deadline: indexNever}
		var errs [3]error
		e.id, errs[0] = url.QueryUnescape(id)
		if deadline != "-" {
			e.deadline, errs[1] = strconv.ParseInt(deadline, 10, 64)
		}
		e.entered, errs[2] = strconv.ParseInt(entered, 10, 64)
		if !ok || !ok2 || !ok3 || id == "" || errors.Join(errs[:]...) != nil {
			return nil, errIndex
		}
		ix = append(ix, e)
	}
	return ix, nil
}

func (ix Index) encode(key string) []byte {
	b := make([]byte, indexHeader, indexHeader+len(ix)*(indexEntry+2))
	for _, e := range ix {
		b = e.append(b)
	}
	copy(b, indexMagic+rand.Text()[:indexWrite]+" ")
	sum := indexSum(key, b[len(indexMagic):indexHeader-10], b[indexHeader:])
	copy(b[indexHeader-9:], appendSum(nil, sum))
	b[indexHeader-1] = '\n'
	return b
}

func (e entry) append(b []byte) []byte {
	b = append(b, url.QueryEscape(e.id)...)
	b = append(b, ' ')
	if e.deadline == indexNever {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, e.deadline, 10)
	}
	b = append(b, ' ')
	b = strconv.AppendInt(b, e.entered, 10)
	return append(b, '\n')
}

func indexSum(key string, write, lines []byte) uint32 {
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

func (ix Index) find(id string) int {
	return slices.IndexFunc(ix, func(e entry) bool { return e.id == id })
}

// trim drops what is of no use any more, and then, while the text is larger
// than limit, the sessions that signed in first: with nobody to vouch for them
// they end.
func (ix Index) trim(now time.Time, limit int) Index {
	over := now.Unix() - indexLate
	ix = slices.DeleteFunc(ix, func(e entry) bool { return e.deadline <= over })
	size := indexHeader
	from := len(ix) // the newest stand last
	for from > 0 {
		size += len(ix[from-1].append(nil))
		if size > limit {
			break
		}
		from--
	}
	return ix[from:]
}

// end is when the last entry is of no use any more, the zero time for never.
func (ix Index) end() time.Time {
	last := int64(0)
	for _, e := range ix {
		if e.deadline == indexNever {
			return time.Time{}
		}
		last = max(last, e.deadline)
	}
	return time.Unix(last+indexLate, 0)
}

// entryDeadline is the deadline of a session's entry: touches move Expires up
// to the Deadline, so it is that.
func entryDeadline(deadline time.Time) int64 {
	if deadline.IsZero() {
		return indexNever
	}
	return deadline.Add(time.Second - 1).Unix()
}
