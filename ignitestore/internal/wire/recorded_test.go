package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session/ignitestore/internal/wire"
	"github.com/distsession/session/internal/servers"
)

var record = flag.Bool("record", false, "talk to real members and write what they say to testdata")

const (
	cacheName = "recorded"
	mebibyte  = 1 << 20
)

var cache = wire.CacheID(cacheName)

// conversations are what a client and a member say to each other. Each is
// recorded once from a real member, and replayed by a fake one, which wants
// exactly the same requests.
var conversations = []struct {
	name string
	conf servers.IgniteOptions
	opts wire.Options
	talk func(t *testing.T, c *wire.Conn, err error)
}{
	{"session", servers.IgniteOptions{}, wire.Options{}, talkAboutSessions},
	{"signin", servers.IgniteOptions{Password: true}, wire.Options{User: servers.IgniteUser, Password: servers.IgnitePassword}, func(t *testing.T, c *wire.Conn, err error) {
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Get(t.Context(), cache, "k")
		wantStatus(t, "a cache that is not there", err, wire.StatusNoCache)
	}},
	{"refused", servers.IgniteOptions{Password: true}, wire.Options{User: servers.IgniteUser, Password: "wrong"}, func(t *testing.T, c *wire.Conn, err error) {
		wantStatus(t, "a wrong password", err, wire.StatusAuth)
	}},
	{"nobody", servers.IgniteOptions{Password: true}, wire.Options{}, func(t *testing.T, c *wire.Conn, err error) {
		wantStatus(t, "no password", err, wire.StatusAuth)
	}},
}

func talkAboutSessions(t *testing.T, c *wire.Conn, err error) {
	ctx := t.Context()
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got any, err error, want any) {
		t.Helper()
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, want)
		}
	}
	_, err = c.CacheConfig(ctx, cache)
	wantStatus(t, "the configuration of no cache", err, wire.StatusNoCache)
	_, err = c.Get(ctx, cache, "k")
	wantStatus(t, "get from no cache", err, wire.StatusNoCache)
	if err := c.CreateCache(ctx, cacheName, wire.NewCache{Mode: wire.Partitioned, Backups: 1, Atomicity: wire.Atomic, Sync: wire.FullSync, EagerTTL: true}); err != nil {
		t.Fatal(err)
	}
	conf, err := c.CacheConfig(ctx, cache)
	check("configuration", conf, err, wire.Config{Atomic: true, Backups: 1, EagerTTL: true, FullSync: true})
	v, err := c.Get(ctx, cache, "k")
	check("get of nothing", v == nil, err, true)
	ok, err := c.PutIfAbsent(ctx, cache, "k", []byte("one"), time.Hour)
	check("put if absent", ok, err, true)
	ok, err = c.PutIfAbsent(ctx, cache, "k", []byte("two"), time.Hour)
	check("put if absent again", ok, err, false)
	ok, err = c.Replace(ctx, cache, "k", []byte("two"), []byte("three"), time.Hour)
	check("replace of another", ok, err, false)
	ok, err = c.Replace(ctx, cache, "k", []byte("one"), []byte{0, 255, 'z'}, time.Hour)
	check("replace", ok, err, true)
	v, err = c.Get(ctx, cache, "k")
	check("get", v, err, []byte{0, 255, 'z'})
	ok, err = c.PutIfAbsent(ctx, cache, "empty", nil, wire.Forever)
	check("an empty value", ok, err, true)
	v, err = c.Get(ctx, cache, "empty")
	check("get of an empty value", v != nil && len(v) == 0, err, true)
	all, err := c.GetAll(ctx, cache, []string{"k", "none", "empty"})
	check("get all", len(all), err, 2)
	rows, pages := 0, 0
	for _, key := range []string{"a", "b", "c"} {
		if _, err := c.PutIfAbsent(ctx, cache, key, []byte(key), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	page, err := c.Scan(ctx, cache, 2)
	for rows, pages = len(page.Rows), 1; err == nil && page.More; rows, pages = rows+len(page.Rows), pages+1 {
		page, err = c.NextPage(ctx, page.Cursor, 2)
	}
	check("scan", fmt.Sprint(rows, pages), err, "5 3")
	page, err = c.Scan(ctx, cache, 2)
	check("the first page", page.More, err, true)
	check("scan left early", 0, c.CloseCursor(ctx, page.Cursor), 0)
	ok, err = c.Remove(ctx, cache, "k")
	check("remove", ok, err, true)
	ok, err = c.Remove(ctx, cache, "k")
	check("remove of nothing", ok, err, false)
	ok, err = c.Replace(ctx, cache, "k", []byte("one"), []byte("two"), time.Hour)
	check("replace of nothing", ok, err, false)

	// A cache's own policy has no say in what gets.
	fickle := wire.CacheID("fickle")
	check("create a cache with a policy", 0, c.CreateFickle(ctx, "fickle"), 0)
	conf, err = c.CacheConfig(ctx, fickle)
	check("its configuration", conf.ReadsExpire, err, true)
	for _, way := range reads {
		ok, err = c.PutIfAbsent(ctx, fickle, way.name, []byte("x"), time.Hour)
		check(way.name+": put", ok, err, true)
		for range 2 {
			there, err := way.read(ctx, c, fickle, way.name)
			check(way.name, there, err, true)
			if *record {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
}

// reads are the ways to read an entry: they tell whether it is there.
var reads = []struct {
	name string
	read func(ctx context.Context, c *wire.Conn, cache int32, key string) (bool, error)
}{
	{"get", func(ctx context.Context, c *wire.Conn, cache int32, key string) (bool, error) {
		v, err := c.Get(ctx, cache, key)
		return v != nil, err
	}},
	{"get all", func(ctx context.Context, c *wire.Conn, cache int32, key string) (bool, error) {
		found, err := c.GetAll(ctx, cache, []string{key})
		return len(found) == 1, err
	}},
}

func wantStatus(t *testing.T, what string, err error, want int32) {
	t.Helper()
	if e := new(wire.Error); !errors.As(err, &e) || e.Status != want {
		t.Errorf("%s: %v; want status %d", what, err, want)
	}
}

func TestRecorded(t *testing.T) {
	for _, tt := range conversations {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join("testdata", tt.name+".txt")
			tt.opts.MaxFrame = mebibyte
			var addr string
			if *record {
				addr = tee(t, servers.Ignite(t, 1, tt.conf).Members[0].Addr, file)
			} else {
				addr = replay(t, file)
			}
			c, err := wire.Dial(t.Context(), addr, tt.opts)
			tt.talk(t, c, err)
			if c != nil {
				c.Close()
			}
		})
	}
}

// replay is a member that says what was recorded, if it hears what was
// recorded.
func replay(t *testing.T, file string) (addr string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, func(c net.Conn) {
		said := 0
		for line := range strings.Lines(string(text)) {
			frame, err := hex.DecodeString(strings.TrimSpace(line[2:]))
			if err != nil {
				t.Errorf("%s: %v", file, err)
				return
			}
			if line[0] == '<' {
				said++
				c.Write(frame)
				continue
			}
			got := make([]byte, len(frame))
			if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, frame) {
				t.Errorf("%s: after %d answers it hears %x, %v; want %x", file, said, got[:n], err, frame)
				return
			}
		}
		if said == 0 {
			t.Errorf("%s is empty", file)
		}
	})
}

// tee passes everything on, and writes it down.
func tee(t *testing.T, server, file string) (addr string) {
	var mu sync.Mutex
	var lines []string
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644); err != nil {
			t.Error(err)
		}
	})
	pass := func(sign string, to, from net.Conn) {
		r := bufio.NewReader(from)
		for {
			head, err := r.Peek(4)
			if err != nil {
				to.Close()
				return
			}
			frame := make([]byte, 4+binary.LittleEndian.Uint32(head))
			if _, err := io.ReadFull(r, frame); err != nil {
				return
			}
			mu.Lock()
			lines = append(lines, fmt.Sprintf("%s %x\n", sign, frame))
			mu.Unlock()
			to.Write(frame)
		}
	}
	return serve(t, func(c net.Conn) {
		s, err := net.Dial("tcp", server)
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		go pass("<", c, s)
		pass(">", s, c)
	})
}

// serve runs f for each connection, and waits for them at the end of the test.
func serve(t *testing.T, f func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	return l.Addr().String()
}
