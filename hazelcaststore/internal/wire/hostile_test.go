package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session/hazelcaststore/internal/wire"
	"github.com/distsession/session/internal/faults"
)

// frame is a frame whose length is what it is said to be.
func frame(length int, flags uint16, body ...byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(length))
	return append(binary.LittleEndian.AppendUint16(b, flags), body...)
}

const (
	whole = 0xC000
	final = 0x2000
	event = 0x0200
)

// answer is the first frame of an answer.
func answer(flags uint16, kind int32, correlation int64, results ...byte) []byte {
	body := binary.LittleEndian.AppendUint32(nil, uint32(kind))
	body = binary.LittleEndian.AppendUint64(body, uint64(correlation))
	body = append(append(body, 0), results...)
	return frame(6+len(body), flags, body...)
}

const getAnswer = 0x130D01

var noValue = frame(6, 0x0400|final)

// nonsense is what a member may say instead of the answer to a get, the third
// message of the connection.
var nonsense = []struct {
	name  string
	bytes []byte
	why   string
}{
	{"a frame of 2 GB", frame(1<<31-1, whole), "it is not believed"},
	{"a negative length", frame(-5, whole), "a length is at least six"},
	{"a length of nothing", frame(0, whole), "a length counts itself"},
	{"frames without end", bytes.Repeat(frame(6, 0), 1<<20), "each counts towards the limit"},
	{"a message of many middling frames", bytes.Repeat(frame(1<<19, 0, make([]byte, 1<<19-6)...), 4), "the sum is limited"},
	{"half a frame", answer(whole, getAnswer, 2)[:11], "the rest never comes"},
	{"half a message", answer(whole, getAnswer, 2), "the value never comes"},
	{"a first frame that is too short", frame(10, whole|final, 1, 2, 3, 4), "it has no correlation"},
	{"a fragment", answer(0x8000|final, getAnswer, 2), "only whole messages are known"},
	{"an unknown type", append(answer(whole, 0x7fffff01, 2), noValue...), "it is not what was asked for"},
	{"the answer to another request", append(answer(whole, 0x131201, 2), noValue...), "it is not what was asked for"},
	{"an answer that nobody asked for", append(answer(whole, getAnswer, 99), noValue...), "who knows whose it is"},
	{"an answer without its value", answer(whole|final, getAnswer, 2), "a get has one"},
	{"an error without a code", answer(whole|final, 0, 2), "an error has one"},
	{"text", []byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), "it is another protocol"},
	{"nothing", nil, "it hangs up"},
}

// member is one that signs everybody in and creates every cache, and then
// answers the next request with what it is given, and hangs up.
func member(t *testing.T, say func(c net.Conn)) string {
	t.Helper()
	told := readRecording(t)
	l := serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
			return
		}
		// The sign-in, and the creation of the cache.
		for _, s := range told[:4] {
			var err error
			if s.client {
				_, err = wire.ReadMessage(r, limit)
			} else {
				_, err = c.Write(s.bytes)
			}
			if err != nil {
				return
			}
		}
		if _, err := wire.ReadMessage(r, limit); err == nil {
			say(c)
		}
	})
	return l.Addr().String()
}

// What a member says that is not the protocol costs that connection, and no
// memory.
func TestNonsense(t *testing.T) {
	for _, tt := range nonsense {
		t.Run(tt.name, func(t *testing.T) {
			addr := member(t, func(c net.Conn) { c.Write(tt.bytes) })
			c, err := wire.Dial(t.Context(), addr, options("recorded"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			v, err := c.Get(t.Context(), "key")
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Errorf("(%s) it answers %q", tt.why, v)
			}
			if wire.Unsent(err) {
				t.Errorf("(%s) the request is said not to have left: %v", tt.why, err)
			}
			if c.Alive() {
				t.Errorf("(%s) the connection lives on after %v", tt.why, err)
			}
			if _, err := c.Get(t.Context(), "key"); !wire.Unsent(err) {
				t.Errorf("(%s) the next request: %v; want one that never left", tt.why, err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
				t.Errorf("(%s) it took %d bytes", tt.why, n)
			}
		})
	}
}

// The same at the sign-in.
func TestNonsenseAtSignIn(t *testing.T) {
	for _, tt := range nonsense {
		l := serve(t, func(c net.Conn) {
			if _, err := io.ReadFull(c, make([]byte, 3)); err == nil {
				c.Write(tt.bytes)
			}
		})
		_, err := wire.Dial(t.Context(), l.Addr().String(), options("recorded"))
		if err == nil || !wire.Unsent(err) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for status, want := range map[byte]string{1: wire.ErrLogin.Error(), 3: "status 3", 0: "cannot be read"} {
		l := serve(t, func(c net.Conn) {
			io.ReadFull(c, make([]byte, 3))
			c.Write(answer(whole|final, 0x101, 0, append([]byte{status}, make([]byte, 48)...)...))
		})
		_, err := wire.Dial(t.Context(), l.Addr().String(), options("recorded"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("status %d: %v; want %s", status, err, want)
		}
	}
}

// What comes unasked, or too late, is passed over.
func TestUnasked(t *testing.T) {
	addr := member(t, func(c net.Conn) {
		c.Write(answer(whole|event|final, 0x55, 1234))
		c.Write(append(answer(whole, 0x7fffff01, 1), noValue...)) // of a call that is over
		c.Write(append(answer(whole, getAnswer, 2), noValue...))
		io.Copy(io.Discard, c)
	})
	c, err := wire.Dial(t.Context(), addr, options("recorded"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if v, err := c.Get(t.Context(), "key"); v != nil || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if !c.Alive() {
		t.Error("the connection is lost")
	}
}

// A value of another client is no session; a refusal shows no more than its
// class.
func TestAnswers(t *testing.T) {
	exception := append(answer(whole, 0, 2), frame(6, 0x1000)...)
	exception = append(exception, frame(6, 0x1000)...)
	exception = append(exception, frame(10, 0, 77, 0, 0, 0)...)
	class := "com.example.\x1b[31mBad\nException"
	exception = append(exception, frame(6+len(class), 0, []byte(class)...)...)
	exception = append(exception, frame(12, final, []byte("secret")...)...)
	for name, tt := range map[string]struct {
		bytes []byte
		value string
		err   string
	}{
		"a text":                        {append(answer(whole, getAnswer, 2), frame(6+13, final, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xf5, 0, 0, 0, 1, 'x')...), "", ""},
		"a count that is not the bytes": {append(answer(whole, getAnswer, 2), frame(6+13, final, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xf4, 0x7f, 0, 0, 1, 'x')...), "", ""},
		"no Data at all":                {append(answer(whole, getAnswer, 2), frame(6, final)...), "", ""},
		"bytes":                         {append(answer(whole, getAnswer, 2), frame(6+13, final, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xf4, 0, 0, 0, 1, 'x')...), "x", ""},
		"an exception":                  {exception, "", "the member answers [31mBadException (77)"},
	} {
		addr := member(t, func(c net.Conn) { c.Write(tt.bytes); io.Copy(io.Discard, c) })
		c, err := wire.Dial(t.Context(), addr, options("recorded"))
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.Get(t.Context(), "key")
		switch {
		case tt.err != "":
			if err == nil || err.Error() != tt.err {
				t.Errorf("%s: %v; want %s", name, err, tt.err)
			}
		case err != nil || v == nil || string(v) != tt.value:
			t.Errorf("%s: %q, %v", name, v, err)
		}
		if !c.Alive() {
			t.Errorf("%s costs the connection", name)
		}
		c.Close()
	}
}

// A connection that is half open ends no call later than its context, and is
// given up when a ping gets no answer.
func TestHalfOpen(t *testing.T) {
	addr := member(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	proxy := faults.NewProxy(t, addr)
	opts := options("recorded")
	opts.KeepAlive = 50 * time.Millisecond
	c, err := wire.Dial(t.Context(), proxy.Addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	proxy.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.PutIfAbsent(ctx, "key", make([]byte, 8<<20), time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v; want the context's error", err)
	}
	if _, err := c.Get(t.Context(), "key"); err == nil || c.Alive() {
		t.Errorf("%v; alive: %v", err, c.Alive())
	}
}

// A ping that is answered keeps an idle connection.
func TestPing(t *testing.T) {
	pings := make(chan struct{}, 100)
	told := readRecording(t)
	l := serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		io.ReadFull(r, make([]byte, 3))
		for _, s := range told[:4] {
			if s.client {
				wire.ReadMessage(r, limit)
			} else {
				c.Write(s.bytes)
			}
		}
		for {
			m, err := wire.ReadMessage(r, limit)
			if err != nil {
				return
			}
			correlation := int64(binary.LittleEndian.Uint64(m.Bytes()[10:]))
			if kind := binary.LittleEndian.Uint32(m.Bytes()[6:]); kind != 0x000B00 {
				t.Errorf("a message of type %#x", kind)
			}
			c.Write(answer(whole|final, 0x000B01, correlation))
			pings <- struct{}{}
		}
	})
	opts := options("recorded")
	opts.KeepAlive = 10 * time.Millisecond
	c, err := wire.Dial(t.Context(), l.Addr().String(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 5 {
		select {
		case <-pings:
		case <-time.After(20 * time.Second):
			t.Fatal("no ping")
		}
	}
}

// Whatever comes is read or refused, within the limit, and what was read is what
// came.
func FuzzMessage(f *testing.F) {
	for _, s := range readRecording(f) {
		f.Add(s.bytes)
	}
	for _, tt := range nonsense {
		f.Add(tt.bytes[:min(len(tt.bytes), 100)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wire.ReadMessage(bufio.NewReader(bytes.NewReader(b)), limit)
		if err != nil {
			return
		}
		m.Read()
		if got := m.Bytes(); !bytes.Equal(got, b[:len(got)]) {
			t.Errorf("%x was read as %x", b, got)
		}
	})
}
