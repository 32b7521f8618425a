package wire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/distsession/session/ignitestore/internal/wire"
)

var greeting = append([]byte{0x17, 0, 0, 0, 1, 12, 0, 0, 0, 0, 10}, make([]byte, 16)...)

// hostile greets as a member does, and answers every request with one text.
func hostile(t *testing.T, greeting []byte, answer func(id []byte) []byte) (addr string) {
	return serve(t, func(c net.Conn) {
		for first := true; ; first = false {
			var head [4]byte
			if _, err := io.ReadFull(c, head[:]); err != nil {
				return
			}
			b := make([]byte, binary.LittleEndian.Uint32(head[:]))
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			text := greeting
			if !first {
				text = answer(b[2:10])
			}
			if _, err := c.Write(text); err != nil || text == nil {
				return
			}
		}
	})
}

// frame is an answer whose length is right.
func frame(id []byte, rest ...byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(id)+len(rest)))
	return append(append(b, id...), rest...)
}

// A member that answers nonsense costs its connection, and neither memory nor
// the next one.
func TestHostileAnswers(t *testing.T) {
	other := []byte{99, 0, 0, 0, 0, 0, 0, 0}
	for _, tt := range []struct {
		name   string
		answer func(id []byte) []byte
	}{
		{"half a frame", func(id []byte) []byte { return nil }},
		{"a frame of 2 GB", func(id []byte) []byte { return []byte{0xff, 0xff, 0xff, 0x7f} }},
		{"a frame of a negative length", func(id []byte) []byte { return []byte{0xff, 0xff, 0xff, 0xff} }},
		{"a frame of nothing", func(id []byte) []byte { return []byte{0, 0, 0, 0} }},
		{"a frame that is shorter than an id", func(id []byte) []byte { return frame(id[:4]) }},
		{"HTTP", func(id []byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }},
		{"an answer to what nobody asked", func(id []byte) []byte { return frame(other, 0, 0, 101) }},
		{"an answer without flags", func(id []byte) []byte { return frame(id) }},
		{"unknown flags", func(id []byte) []byte { return frame(id, 4, 0, 101) }},
		{"an object of an unknown type", func(id []byte) []byte { return frame(id, 0, 0, 103, 1, 0, 0, 0, 'x') }},
		{"a string for a byte array", func(id []byte) []byte { return frame(id, 0, 0, 9, 1, 0, 0, 0, 'x') }},
		{"a value of 2 GB", func(id []byte) []byte { return frame(id, 0, 0, 12, 0xff, 0xff, 0xff, 0x7f, 'x') }},
		{"a value of a negative length", func(id []byte) []byte { return frame(id, 0, 0, 12, 0xff, 0xff, 0xff, 0xff) }},
		{"more than was asked", func(id []byte) []byte { return frame(id, 0, 0, 101, 101) }},
		{"an error without its text", func(id []byte) []byte { return frame(id, 1, 0, 1, 0, 0, 0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := hostile(t, greeting, tt.answer)
			for range 2 {
				c, err := wire.Dial(t.Context(), addr, wire.Options{MaxFrame: 1 << 30})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				v, err := c.Get(ctx, cache, "k")
				cancel()
				if err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("it reads %q, %v", v, err)
				}
				if c.Err() == nil {
					t.Error("the connection is still in use")
				}
				if _, err := c.Get(t.Context(), cache, "k"); !errors.As(err, new(*wire.Unsent)) {
					t.Errorf("the next request: %v; want an error that says that it was not sent", err)
				}
				c.Close()
			}
		})
	}
}

// Rows that nobody asked for are refused before they take memory: a row without
// a value has six bytes, and 64 as an Entry.
func TestHostileRows(t *testing.T) {
	row := []byte{9, 0, 0, 0, 0, 101}
	many := bytes.Repeat(row, 100_000)
	rows := func(n int) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(n)), many[:n*len(row)]...)
	}
	cursor := make([]byte, 8)
	for _, tt := range []struct {
		name   string
		answer func(n int) []byte
		ask    func(context.Context, *wire.Conn) error
	}{
		{"get all", rows, func(ctx context.Context, c *wire.Conn) error {
			_, err := c.GetAll(ctx, cache, []string{"a", "b"})
			return err
		}},
		{"scan", func(n int) []byte { return append(append(cursor, rows(n)...), 1) }, func(ctx context.Context, c *wire.Conn) error {
			_, err := c.Scan(ctx, cache, 2)
			return err
		}},
		{"next page", func(n int) []byte { return append(rows(n), 1) }, func(ctx context.Context, c *wire.Conn) error {
			_, err := c.NextPage(ctx, 1, 2)
			return err
		}},
	} {
		for n, want := range map[int]error{0: nil, 2: nil, 3: wire.ErrNonsense, 100_000: wire.ErrNonsense} {
			addr := hostile(t, greeting, func(id []byte) []byte { return frame(id, append([]byte{0, 0}, tt.answer(n)...)...) })
			c, err := wire.Dial(t.Context(), addr, wire.Options{MaxFrame: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.ask(t.Context(), c); !errors.Is(err, want) {
				t.Errorf("%s: of 2 rows come %d: %v; want %v", tt.name, n, err, want)
			}
			c.Close()
		}
	}
}

// A frame that is announced takes memory as it comes, not as it says.
func TestHostileLength(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	text := append([]byte{0, 0, 0, 0x40}, make([]byte, 100_000)...) // a gibibyte
	_, err := wire.ReadFrame(text, 1<<30)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("it reads a frame that is not there: %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
		t.Errorf("100 kB of a gibibyte took %d bytes of memory", took)
	}
}

func TestHostileGreeting(t *testing.T) {
	for _, tt := range []struct {
		name     string
		greeting []byte
		want     error
	}{
		{"nothing", nil, nil},
		{"a frame of 2 GB", []byte{0xff, 0xff, 0xff, 0x7f}, wire.ErrNonsense},
		{"HTTP", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), wire.ErrNonsense},
		{"neither yes nor no", frame(nil, 2), wire.ErrNonsense},
		{"yes, and no more", frame(nil, 1), wire.ErrNonsense},
		{"no, and no more", frame(nil, 0), wire.ErrNonsense},
		{"another version", frame(nil, 0, 1, 0, 4, 0, 0, 0, 9, 2, 0, 0, 0, 'n', 'o', 1, 0, 0, 0), wire.ErrVersion},
	} {
		c, err := wire.Dial(t.Context(), hostile(t, tt.greeting, nil), wire.Options{MaxFrame: 1 << 20})
		if err == nil {
			c.Close()
		}
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !errors.As(err, new(*wire.Unsent)) {
			t.Errorf("%s: %v; want %v", tt.name, err, tt.want)
		}
	}
}

// A caller that goes costs nobody else anything, and the answer that comes late
// is nobody's.
func TestLateAnswer(t *testing.T) {
	release := make(chan struct{})
	n := 0
	addr := hostile(t, greeting, func(id []byte) []byte {
		if n++; n == 1 {
			<-release
			return frame(id, 0, 0, 12, 1, 0, 0, 0, '1')
		}
		return frame(id, 0, 0, 12, 1, 0, 0, 0, '2')
	})
	c, err := wire.Dial(t.Context(), addr, wire.Options{MaxFrame: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, cache, "one"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the first: %v", err)
	}
	close(release)
	if v, err := c.Get(t.Context(), cache, "two"); string(v) != "2" || err != nil {
		t.Errorf("the second reads %q, %v", v, err)
	}
}

// Whatever a member answers is read or refused: nothing is longer than what came.
func FuzzAnswer(f *testing.F) {
	for _, b := range [][]byte{
		{0, 0, 12, 1, 0, 0, 0, 'x'},
		{0, 0, 101},
		{2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 1},
		{1, 0, 232, 3, 0, 0, 9, 2, 0, 0, 0, 'n', 'o'},
		{0, 0, 1, 0, 0, 0, 9, 1, 0, 0, 0, 'k', 12, 1, 0, 0, 0, 'v', 0},
		{0, 0, 255, 255, 255, 127},
		greeting[4:],
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		read := wire.ParseAnswers(b)
		if most := 1 + 2*wire.MostRows + 1; len(read) > most {
			t.Fatalf("%d objects were read; want at most %d", len(read), most)
		}
		for _, n := range read {
			if n > len(b) {
				t.Fatalf("%d bytes were read from %d", n, len(b))
			}
		}
	})
}

// A frame is as long as it says, or is refused.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 'x'}, 10)
	f.Add([]byte{255, 255, 255, 127}, 1<<20)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		got, err := wire.ReadFrame(b, limit)
		if err == nil && (len(got) > limit || len(got) > len(b)-4 || len(got) != int(binary.LittleEndian.Uint32(b))) {
			t.Fatalf("%d bytes of %d, limit %d", len(got), len(b), limit)
		}
	})
}
