package memcachedstore

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// reply follows one request and what comes of its answer, for the client takes
// whatever it is given: an item of 4 GiB, whose memory it asks for at once, or
// items without end.
//
//	VALUE key flags size [cas] \r\n size bytes \r\n   for each key that was asked for
//	STAT name value \r\n                              for our own console, which counts them
//	END \r\n                                          or any other line, is the last
type reply struct {
	asking bool   // the request has begun
	gets   bool   // it asks for items
	items  int    // that may come yet
	line   []byte // what has come of a line
	value  int    // bytes of a value, with its end, that are to come
	over   bool
}

// maxLine is what the client's buffer and the console's hold. The longest header
// has 300 bytes.
const maxLine = 4096

var (
	errUnreadable = errors.New("the server's answer cannot be read")
	errTooMany    = errors.New("the server answers with more items than it was asked for")
)

// ask takes note of a request, piece by piece.
func (r *reply) ask(b []byte) {
	if !r.asking {
		r.asking, r.gets = true, bytes.HasPrefix(b, []byte("gets "))
	}
	if r.gets {
		r.items += bytes.Count(b, []byte(" ")) // one before each key
	}
}

// take looks at what has come, whose items may have up to limit bytes. After an
// error the connection is of no use.
func (r *reply) take(b []byte, limit int) error {
	for len(b) > 0 {
		if r.over {
			return errUnasked
		}
		if r.value > 0 {
			n := min(r.value, len(b))
			r.value, b = r.value-n, b[n:]
			continue
		}
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if len(r.line)+len(line) >= maxLine {
			return errUnreadable
		}
		r.line, b = append(r.line, line...), rest
		if !whole {
			return nil
		}
		if err := r.header(limit); err != nil {
			return err
		}
		r.line = r.line[:0]
	}
	return nil
}

// header reads a whole line.
func (r *reply) header(limit int) error {
	fields, item := bytes.CutPrefix(r.line, []byte("VALUE "))
	if !item {
		r.over = !bytes.HasPrefix(r.line, []byte("STAT "))
		return nil
	}
	if r.items == 0 {
		return errTooMany
	}
	r.items--
	words := bytes.Split(bytes.TrimSuffix(fields, []byte("\r")), []byte(" "))
	if len(words) < 3 {
		return errUnreadable
	}
	size, err := strconv.ParseUint(string(words[2]), 10, 32)
	switch {
	case err != nil:
		return errUnreadable
	case size > uint64(limit):
		return fmt.Errorf("the server answers with an item of %d bytes, of at most %d; if another process writes such, raise max_item here too", size, limit)
	}
	r.value = int(size) + len("\r\n")
	return nil
}
