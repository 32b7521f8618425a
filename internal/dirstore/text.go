package dirstore

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"strings"

	"github.com/distsession/session"
)

// The text of a record in a file: a line of our own, then session.EncodeRecord's.
//
//	d1 <crc> <id> <writes>\n
//
//	crc     CRC-32C, in 8 hexadecimal digits, of all that follows: of the times
//	        too, which session.EncodeRecord leaves out, for here nothing is
//	        overwritten where it stands
//	id      escaped as in a URL's query: a name of the layout is its hash
//	writes  the names of the last writes, the newest first, 6 characters each;
//	        "-" for none
const textMagic = "d1 "

const (
	// WriteLen is the length of a write's name.
	WriteLen = session.TrailLen / 3
	// MaxWrites is how many names a text has at most: so many versions later a
	// writer still finds out what became of its write.
	MaxWrites = 64
)

// NewWrite returns a name for one write. It has no dot.
func NewWrite() string { return session.NewTrail().Next().Write() }

// A History names the writes that made the last versions of a record, the
// newest first.
type History string

// Next returns the history after the write of this name.
func (h History) Next(write string) History {
	next := History(write) + h
	return next[:min(len(next), MaxWrites*WriteLen)]
}

// At is the name of the write that made the version that is age versions older
// than the newest; "" if it is not known.
func (h History) At(age int64) string {
	if age < 0 || age >= int64(len(h)/WriteLen) {
		return ""
	}
	return string(h[age*WriteLen : (age+1)*WriteLen])
}

// EncodeText returns the text of rec as its next version.
func EncodeText(rec *session.Record, h History) ([]byte, error) {
	trail := session.Trail((string(h) + string(session.NewTrail()))[:session.TrailLen])
	text, err := session.EncodeRecord(rec, trail)
	if err != nil {
		return nil, err
	}
	writes := string(h)
	if writes == "" {
		writes = "-"
	}
	id := url.QueryEscape(rec.ID)
	b := make([]byte, textBody, textBody+len(id)+len(writes)+2+len(text))
	b = append(b, id...)
	b = append(b, ' ')
	b = append(b, writes...)
	b = append(b, '\n')
	b = append(b, text...)
	copy(b, textMagic+sum(b[textBody:])+" ")
	return b, nil
}

const textBody = len(textMagic) + 8 + 1 // where the ID begins

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }

// DecodeText reads what EncodeText wrote. What cannot be decoded is
// session.ErrNotFound, wrapped with the reason; path stands in it. Data is a
// part of text.
func DecodeText(path string, text []byte) (*session.Record, History, error) {
	rec, h, err := decodeText(text)
	if err != nil && !errors.Is(err, session.ErrNotFound) {
		err = fmt.Errorf("%w: %s cannot be decoded: %w", session.ErrNotFound, path, err)
	}
	return rec, h, err
}

func decodeText(text []byte) (*session.Record, History, error) {
	line, rest, ok := bytes.Cut(text, []byte("\n"))
	switch {
	case !ok || !bytes.HasPrefix(line, []byte(textMagic)) || len(line) < textBody:
		return nil, "", errors.New("not of a known format")
	case string(line[len(textMagic):textBody]) != sum(text[textBody:])+" ":
		return nil, "", errors.New("checksum differs")
	}
	escaped, writes, ok := strings.Cut(string(line[textBody:]), " ")
	id, err := url.QueryUnescape(escaped)
	if !ok || err != nil {
		return nil, "", errors.New("malformed first line")
	}
	if writes == "-" {
		writes = ""
	}
	if len(writes)%WriteLen != 0 || len(writes) > MaxWrites*WriteLen {
		return nil, "", errors.New("malformed names of writes")
	}
	rec, trail, err := session.DecodeRecord(id, rest)
	if err != nil {
		return nil, "", err
	}
	if !strings.HasPrefix(writes+string(session.NewTrail()), string(trail)) {
		return nil, "", errors.New("the names of the writes differ")
	}
	return rec, History(writes), nil
}

// TextLimit is more than any text has whose record has at most maxData bytes of
// values, and at least 16 MiB, so that a lower limit than before loses nothing.
func TextLimit(maxData int) int { return max(maxData+64<<10, 16<<20) }
