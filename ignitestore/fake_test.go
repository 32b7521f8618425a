package ignitestore_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// fake is an Ignite cluster in this process, of one or more members, with a
// clock that tests can move. It speaks the thin-client protocol to the point of
// what a store needs, written from Ignite's own description of it.
type fake struct {
	Addrs []string

	conf fakeConf

	mu     sync.Mutex
	caches map[int32]*fakeCache
	log    []string         // the requests
	scans  map[int64][]pair // what is left of them
	last   int64
	held   map[int16]chan chan struct{}
}

type fakeConf struct {
	now            func() time.Time // nil: time.Now
	members        int              // 0: one
	user, password string           // "": authentication is off, and any is accepted
	refuse         bool             // another version of the protocol
	cache          *fakeCache       // "sessions", there from the start
}

// fakeCache is a cache; its zero value is one that nobody should use.
type fakeCache struct {
	mode, atomicity, backups, sync int32
	readFromBackup, eagerTTL       bool
	policy                         []int64 // the cache's own: at creation, at update, at access

	entries map[string]fakeEntry
}

type fakeEntry struct {
	value   []byte
	expires time.Time // zero: never
}

type pair struct {
	key   string
	value []byte
}

func newFake(t testing.TB, conf fakeConf) *fake {
	t.Helper()
	if conf.now == nil {
		conf.now = time.Now
	}
	f := &fake{conf: conf, caches: map[int32]*fakeCache{}, scans: map[int64][]pair{}}
	if conf.cache != nil {
		conf.cache.entries = map[string]fakeEntry{}
		f.caches[javaHash("sessions")] = conf.cache
	}
	for range max(conf.members, 1) {
		f.Addrs = append(f.Addrs, listen(t, f.serve))
	}
	return f
}

// listen gives each connection to serve, and ends them with the test.
func listen(t testing.TB, serve func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				serve(c)
			})
		}
	})
	return l.Addr().String()
}

// requests returns what was asked since the last time, as "get key".
func (f *fake) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

// lose takes entries away, all of them with "": what members that die together
// do.
func (f *fake) lose(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if key == "" {
		clear(f.caches)
	}
	for _, c := range f.caches {
		delete(c.entries, key)
	}
}

// size is how many live entries there are.
func (f *fake) size() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.caches {
		for key := range c.entries {
			if c.get(key, f.conf.now()) != nil {
				n++
			}
		}
	}
	return n
}

func (f *fake) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for first := true; ; first = false {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		b := make([]byte, binary.LittleEndian.Uint32(head[:]))
		if _, err := io.ReadFull(r, b); err != nil {
			return
		}
		answer, ok := []byte(nil), true
		if first {
			answer, ok = f.greet(&input{b})
		} else {
			answer = f.answer(&input{b})
		}
		if _, err := c.Write(append(le32(nil, int32(len(answer))), answer...)); err != nil || !ok {
			return
		}
	}
}

func (f *fake) greet(in *input) (answer []byte, ok bool) {
	in.skip(1 + 3*2 + 1 + 5)
	var user, password string
	if len(in.b) > 0 {
		user, password = in.string(), in.string()
	}
	refusal := func(version byte, status int32, text string) ([]byte, bool) {
		return le32(object(append([]byte{0, version, 0, 7, 0, 0, 0}, []byte(nil)...), 9, []byte(text)), status), false
	}
	switch {
	case f.conf.refuse:
		return refusal(9, 1, "Unsupported version.")
	case f.conf.user != user && f.conf.user != "" || f.conf.password != password && f.conf.user != "":
		return refusal(1, 2000, "The user name or password is incorrect")
	}
	return append(append([]byte{1}, object(nil, 12, nil)...), append([]byte{10}, make([]byte, 16)...)...), true
}

// hold makes the next request of a kind wait: it is given out when it comes, and
// answered when the test closes it.
func (f *fake) hold(op int16) (comes chan chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	comes = make(chan chan struct{}, 1)
	f.held = map[int16]chan chan struct{}{op: comes}
	return comes
}

func (f *fake) wait(op int16) {
	f.mu.Lock()
	comes := f.held[op]
	delete(f.held, op)
	f.mu.Unlock()
	if comes != nil {
		release := make(chan struct{})
		comes <- release
		<-release
	}
}

// open is how many scans there are that have not ended.
func (f *fake) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.scans)
}

// refusal is an answer that is an error.
type refusal int32

func (f *fake) answer(in *input) (answer []byte) {
	op, id := int16(in.uint(2)), int64(in.uint(8))
	f.wait(op)
	head := binary.LittleEndian.AppendUint64(nil, uint64(id))
	payload, err := f.do(op, in)
	if err != 0 {
		return object(le32(append(head, 1, 0), int32(err)), 9, []byte("Cache does not exist\nand a trace"))
	}
	// Now and then the members have changed.
	if id%5 == 0 {
		return append(append(append(head, 2, 0), make([]byte, 12)...), payload...)
	}
	return append(append(head, 0, 0), payload...)
}

func (f *fake) do(op int16, in *input) ([]byte, refusal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch op {
	case 0:
		f.log = append(f.log, "close")
		delete(f.scans, int64(in.uint(8)))
		return nil, 0
	case 1054:
		f.log = append(f.log, "create")
		f.create(in)
		return nil, 0
	case 2001:
		f.log = append(f.log, "next page")
		return f.page(int64(in.uint(8)), 32), 0
	}
	c := f.caches[int32(in.uint(4))]
	ttl := int64(-2)
	if in.uint(1)&4 != 0 {
		ttl = int64(in.uint(8))
		in.skip(2 * 8)
	}
	if c == nil {
		return nil, 1000
	}
	if op == 1055 {
		f.log = append(f.log, "config")
		return c.config(), 0
	}
	return f.use(c, op, ttl, in)
}

func (f *fake) use(c *fakeCache, op int16, ttl int64, in *input) ([]byte, refusal) {
	now := f.conf.now()
	entry := func(value []byte) fakeEntry {
		e := fakeEntry{value: value}
		if ttl >= 0 {
			e.expires = now.Add(time.Duration(ttl) * time.Millisecond)
		}
		return e
	}
	note := func(what, key string) { f.log = append(f.log, what+" "+key) }
	switch op {
	case 1000:
		key := in.string()
		note("get", key)
		return value(nil, c.get(key, now)), 0
	case 1002:
		key := in.string()
		note("add", key)
		if c.get(key, now) != nil {
			return []byte{0}, 0
		}
		c.entries[key] = entry(in.bytes())
		return []byte{1}, 0
	case 1003:
		var found []pair
		for range in.uint(4) {
			key := in.string()
			note("all", key)
			if v := c.get(key, now); v != nil {
				found = append(found, pair{key, v})
			}
		}
		return pairs(nil, found), 0
	case 1010:
		key := in.string()
		note("replace", key)
		old, next := in.bytes(), in.bytes()
		if v := c.get(key, now); v == nil || !bytes.Equal(v, old) {
			return []byte{0}, 0
		}
		c.entries[key] = entry(next)
		return []byte{1}, 0
	case 1016:
		key := in.string()
		note("remove", key)
		was := c.get(key, now) != nil
		delete(c.entries, key)
		if was {
			return []byte{1}, 0
		}
		return []byte{0}, 0
	case 2000:
		f.log = append(f.log, "scan")
		in.skip(1)
		size := int(in.uint(4))
		f.last++
		for key := range c.entries {
			if v := c.get(key, now); v != nil {
				f.scans[f.last] = append(f.scans[f.last], pair{key, v})
			}
		}
		return append(binary.LittleEndian.AppendUint64(nil, uint64(f.last)), f.page(f.last, size)...), 0
	}
	return nil, 2 // no such operation
}

func (c *fakeCache) get(key string, now time.Time) []byte {
	e, ok := c.entries[key]
	if !ok || !e.expires.IsZero() && !now.Before(e.expires) {
		return nil
	}
	return e.value
}

// page takes the next rows of a scan.
func (f *fake) page(cursor int64, size int) []byte {
	left := f.scans[cursor]
	n := min(size, len(left))
	f.scans[cursor] = left[n:]
	more := byte(1)
	if n == len(left) {
		more = 0
		delete(f.scans, cursor)
	}
	return append(pairs(nil, left[:n]), more)
}

// create makes a cache of the properties that are known, unless it is there.
func (f *fake) create(in *input) {
	in.skip(4)
	c := &fakeCache{entries: map[string]fakeEntry{}}
	name := ""
	for range in.uint(2) {
		switch in.uint(2) {
		case 0:
			name = in.string()
		case 1:
			c.mode = int32(in.uint(4))
		case 2:
			c.atomicity = int32(in.uint(4))
		case 3:
			c.backups = int32(in.uint(4))
		case 4:
			c.sync = int32(in.uint(4))
		case 6:
			c.readFromBackup = in.uint(1) == 1
		case 405:
			c.eagerTTL = in.uint(1) == 1
		}
	}
	if f.caches[javaHash(name)] == nil {
		f.caches[javaHash(name)] = c
	}
}

// config is in the order of Ignite's ClientCacheConfigurationSerializer.
func (c *fakeCache) config() []byte {
	flag := func(b []byte, v bool) []byte {
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	}
	b := le32(le32(le32(nil, c.atomicity), c.backups), c.mode)
	b = append(b, 1)                   // copies on read
	b = append(b, 101)                 // data region
	b = append(flag(b, c.eagerTTL), 0) // statistics
	b = append(b, 101)                 // group
	b = append(b, make([]byte, 8+4+4)...)
	b = append(object(b, 9, []byte("sessions")), 0) // on heap
	b = append(b, make([]byte, 4+4+4)...)
	b = flag(b, c.readFromBackup)
	b = append(b, make([]byte, 4+8+8+4+4+8+8+1+4)...)
	b = le32(append(b, 101), c.sync)
	b = flag(append(b, make([]byte, 4+4)...), c.policy != nil)
	for _, ms := range c.policy {
		b = binary.LittleEndian.AppendUint64(b, uint64(ms))
	}
	return append(le32(nil, int32(len(b))), b...)
}

func javaHash(name string) (h int32) {
	for _, c := range name {
		h = 31*h + c
	}
	return h
}

func le32(b []byte, v int32) []byte { return binary.LittleEndian.AppendUint32(b, uint32(v)) }

func object(b []byte, kind byte, v []byte) []byte {
	return append(le32(append(b, kind), int32(len(v))), v...)
}

func value(b, v []byte) []byte {
	if v == nil {
		return append(b, 101)
	}
	return object(b, 12, v)
}

func pairs(b []byte, all []pair) []byte {
	slices.SortFunc(all, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
	b = le32(b, int32(len(all)))
	for _, p := range all {
		b = value(object(b, 9, []byte(p.key)), p.value)
	}
	return b
}

// input is a request that is read. It is a test's own, so what is wrong panics.
type input struct{ b []byte }

func (in *input) skip(n int) []byte {
	head := in.b[:n]
	in.b = in.b[n:]
	return head
}

func (in *input) uint(n int) uint64 {
	var b [8]byte
	copy(b[:], in.skip(n))
	return binary.LittleEndian.Uint64(b[:])
}

func (in *input) object(kind byte) []byte {
	if in.uint(1) != uint64(kind) {
		panic(errors.New("an object of another type"))
	}
	return in.skip(int(in.uint(4)))
}

func (in *input) string() string { return string(in.object(9)) }

// bytes is never nil, as an entry's value never is.
func (in *input) bytes() []byte { return append([]byte{}, in.object(12)...) }
