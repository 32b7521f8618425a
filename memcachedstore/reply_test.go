package memcachedstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

const testLimit = 10

// takeAll follows an answer that comes in pieces of so many bytes.
func takeAll(request, text string, piece int) (r reply, err error) {
	r.ask([]byte(request))
	for b := range slices.Chunk([]byte(text), piece) {
		if err := r.take(b, testLimit); err != nil {
			return r, err
		}
	}
	return r, nil
}

var errAny = errors.New("any error")

func TestReply(t *testing.T) {
	const one, two, add = "gets a\r\n", "gets a b\r\n", "add gets 0 0 1\r\n \r\n"
	for _, tt := range []struct {
		request, text string
		want          error
		over          bool
		why           string
	}{
		{one, "END\r\n", nil, true, "there is none"},
		{one, "VALUE a 0 3 7\r\nabc\r\nEND\r\n", nil, true, "it is there"},
		{one, "VALUE a 0 5 7\r\nEND\r\n\r\nEND\r\n", nil, true, "what a value looks like is its own affair"},
		{two, "VALUE a 0 0 7\r\n\r\nVALUE b 0 10 8\r\n0123456789\r\nEND\r\n", nil, true, "both are there"},
		{two, "VALUE a 0 3 7\r\nabc\r\n", nil, false, "the other is to come"},
		{add, "STORED\r\n", nil, true, "one line"},
		{add, "SERVER_ERROR out of memory\r\n", nil, true, "one line"},
		{"stats\r\n", "STAT a 1\r\nSTAT b 2\r\nEND\r\n", nil, true, "as many as there are"},
		{one, "VALUE a 0 11 7\r\n", errAny, false, "larger than the limit"},
		{one, "VALUE a 0 4294967295 1\r\n", errAny, false, "the largest that the client takes"},
		{one, "VALUE a 0 4294967296 1\r\n", errUnreadable, false, "larger than that"},
		{one, "VALUE a 0 -1 1\r\n", errUnreadable, false, "less than nothing"},
		{one, "VALUE a\r\n", errUnreadable, false, "no size"},
		{one, "VALUE a 0 1 7\r\nx\r\nVALUE a 0 1 7\r\n", errTooMany, false, "it asked for one"},
		{add, "VALUE a 0 1 7\r\n", errTooMany, false, "it asked for none"},
		{one, "END\r\nEND\r\n", errUnasked, true, "the second would answer the next request"},
		{add, "STORED\r\n.", errUnasked, true, "so would this"},
		{one, strings.Repeat("x", maxLine), errUnreadable, false, "a line without end"},
	} {
		for _, piece := range []int{1, 3, len(tt.text)} {
			r, err := takeAll(tt.request, tt.text, piece)
			if !errors.Is(err, tt.want) && (tt.want != errAny || err == nil) || r.over != tt.over {
				t.Errorf("%q to %q in pieces of %d: %v, over %v; want %v, %v (%s)", tt.text, tt.request, piece, err, r.over, tt.want, tt.over, tt.why)
			}
		}
	}
}

// FuzzReply lets the client read whatever comes: it gets no more than was asked
// for, whatever it makes of it, and the pieces in which it comes do not matter.
func FuzzReply(f *testing.F) {
	for _, text := range []string{
		"VALUE a 0 3 7\r\nabc\r\nEND\r\n", "VALUE a 0 4294967295 1\r\n", "VALUE a 0 1 7\r\nx\r\nVALUE b 0 1 7\r\nx\r\nVALUE c 0 1 7\r\nx\r\nEND\r\n",
		"VALUE a 0 1 7\nx\r\n", "VALUE a 0 01 7 9\r\nx\r\nEND\r\n", "VALUE  0 1\r\nx\r\nEND\r\n", "STAT a 1\r\nEND\r\n", "END\r\n.", "",
	} {
		f.Add(text, 1)
	}
	f.Fuzz(func(t *testing.T, text string, piece int) {
		if piece < 1 {
			piece = 1
		}
		whole, want := takeAll("gets a b\r\n", text, max(1, len(text)))
		parts, err := takeAll("gets a b\r\n", text, piece)
		if (err == nil) != (want == nil) || err == nil && (parts.over != whole.over || parts.value != whole.value || parts.items != whole.items) {
			t.Fatalf("%q: %v, %+v; in pieces of %d %v, %+v", text, want, whole, piece, err, parts)
		}
		sent := bytes.NewReader([]byte(text))
		c := memcache.NewFromSelector((*onlyServer)(&server{}))
		c.DialContext = func(context.Context, string, string) (net.Conn, error) {
			scripted := scriptedConn{from: sent}
			return &conn{Conn: scripted, raw: scripted, limit: testLimit}, nil
		}
		items, err := c.GetMulti([]string{"a", "b"})
		if len(items) > 2 {
			t.Errorf("%q: %d items", text, len(items))
		}
		for _, it := range items {
			if len(it.Value) > testLimit {
				t.Errorf("%q: an item of %d bytes", text, len(it.Value))
			}
		}
		if err == nil && !whole.over {
			t.Errorf("%q: the client sees an end where there is none", text)
		}
	})
}

// scriptedConn says what it is told to.
type scriptedConn struct {
	net.Conn
	from io.Reader
}

func (c scriptedConn) Read(b []byte) (int, error)  { return c.from.Read(b) }
func (c scriptedConn) Write(b []byte) (int, error) { return len(b), nil }
func (c scriptedConn) SetDeadline(time.Time) error { return nil }
func (c scriptedConn) Close() error                { return nil }

// FuzzConsole: an answer has at most so many statistics, and no end that is
// missing.
func FuzzConsole(f *testing.F) {
	for _, text := range []string{"VERSION 1.6.18\r\n", "STAT a 1\r\nSTAT b\r\nEND\r\n", "STAT a 1\r\n", "END\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n", strings.Repeat("x", 5000)} {
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, many bool) {
		k := newConsole(&conn{Conn: scriptedConn{from: strings.NewReader(text)}, raw: scriptedConn{}})
		answer, err := k.ask("stats", many)
		stats := strings.Count(text, "STAT ")
		switch _, other := answer[""]; {
		case err != nil && answer != nil:
			t.Errorf("%q: an error with %d statistics", text, len(answer))
		case err == nil && many && !other && !strings.Contains(text, "END"):
			t.Errorf("%q: complete without an end", text)
		case len(answer) > stats+1 || !many && len(answer) > 1:
			t.Errorf("%q: %d statistics", text, len(answer))
		}
	})
}

// The request of a key that is in it twice, or that comes in several pieces, is
// counted as it is.
func TestReplyCountsKeys(t *testing.T) {
	var r reply
	request := "gets"
	for i := range 1000 {
		request += " session:" + strconv.Itoa(i)
	}
	for b := range slices.Chunk([]byte(request+"\r\n"), 4096) {
		r.ask(b)
	}
	if r.items != 1000 {
		t.Errorf("%d items; want 1000", r.items)
	}
}
