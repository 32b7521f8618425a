package memcachedstore_test

import (
	"bufio"
	"container/list"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a memcached in this process, with a clock that tests can move. It
// speaks the text protocol as memcached 1.6 does, to the point of what it does
// wrong: seconds tick, dates begin at 30 days, and a set that is too large
// drops what was there.
type fake struct {
	Addr string

	conf fakeConf

	mu      sync.Mutex
	items   map[string]*list.Element // of *fakeItem
	used    *list.List               // most recently used first
	last    uint64                   // number of the last write
	evicted int
	log     []string          // the commands, without values
	garbled map[string]string // key to what a get answers
}

type fakeConf struct {
	now     func() time.Time // nil: time.Now
	maxItem int              // 0: 1 MiB
	memory  int              // bytes; 0: no end
	noEvict bool             // -M
	noCAS   bool             // -C
}

type fakeItem struct {
	key, flags string
	value      []byte
	cas        uint64
	expires    int64 // in seconds; 0: never
}

// fakeHeader is what a server adds to each item.
const fakeHeader = 64

func newFake(t testing.TB, conf fakeConf) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if conf.now == nil {
		conf.now = time.Now
	}
	if conf.maxItem == 0 {
		conf.maxItem = 1 << 20
	}
	f := &fake{Addr: l.Addr().String(), conf: conf, items: map[string]*list.Element{}, used: list.New()}
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
				f.serve(c)
			})
		}
	})
	return f
}

func (f *fake) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		args := strings.Fields(line)
		if len(args) == 0 {
			io.WriteString(c, "ERROR\r\n")
			continue
		}
		var value []byte
		switch args[0] {
		case "set", "add", "replace", "cas":
			if len(args) < 5 {
				io.WriteString(c, "ERROR\r\n")
				continue
			}
			n, err := strconv.Atoi(args[4])
			if err != nil || n < 0 {
				io.WriteString(c, "CLIENT_ERROR bad data chunk\r\n")
				return
			}
			value = make([]byte, n+2)
			if _, err := io.ReadFull(r, value); err != nil {
				return
			}
			if string(value[n:]) != "\r\n" {
				io.WriteString(c, "CLIENT_ERROR bad data chunk\r\n")
				return
			}
			value = value[:n]
		case "quit":
			return
		}
		if _, err := io.WriteString(c, f.do(args, value)); err != nil {
			return
		}
	}
}

// do runs one command and returns the answer.
func (f *fake) do(args []string, value []byte) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, strings.Join(args[:min(2, len(args))], " "))
	for _, key := range args[1:] {
		if len(key) > 250 {
			return "CLIENT_ERROR line format\r\n"
		}
	}
	switch args[0] {
	case "get", "gets":
		return f.get(args[1:], args[0] == "gets")
	case "gat", "gats":
		if len(args) < 3 {
			return "ERROR\r\n"
		}
		for _, key := range args[2:] {
			if it := f.find(key); it != nil {
				it.expires = f.expiry(args[1])
			}
		}
		return f.get(args[2:], args[0] == "gats")
	case "set", "add", "replace", "cas":
		return f.store(args, value)
	case "delete":
		if f.find(args[1]) == nil {
			return "NOT_FOUND\r\n"
		}
		f.drop(args[1])
		return "DELETED\r\n"
	case "touch":
		it := f.find(args[1])
		if it == nil {
			return "NOT_FOUND\r\n"
		}
		it.expires = f.expiry(args[2])
		return "TOUCHED\r\n"
	case "incr", "decr":
		return f.count(args)
	case "flush_all":
		clear(f.items)
		f.used.Init()
		return "OK\r\n"
	case "version":
		return "VERSION 1.6.18\r\n"
	case "stats":
		return f.stats(args[1:])
	}
	return "ERROR\r\n"
}

func (f *fake) get(keys []string, withCAS bool) string {
	if text := f.garbled[keys[0]]; text != "" {
		return text
	}
	var b strings.Builder
	for _, key := range keys {
		it := f.find(key)
		if it == nil {
			continue
		}
		fmt.Fprintf(&b, "VALUE %s %s %d", key, it.flags, len(it.value))
		if withCAS {
			fmt.Fprintf(&b, " %d", it.cas)
		}
		fmt.Fprintf(&b, "\r\n%s\r\n", it.value)
	}
	return b.String() + "END\r\n"
}

func (f *fake) store(args []string, value []byte) string {
	key := args[1]
	old := f.find(key)
	size := len(key) + len(value) + fakeHeader
	if size > f.conf.maxItem {
		if args[0] == "set" {
			f.drop(key)
		}
		return "SERVER_ERROR object too large for cache\r\n"
	}
	switch {
	case args[0] == "cas" && len(args) < 6:
		return "ERROR\r\n"
	case args[0] == "cas" && old == nil:
		return "NOT_FOUND\r\n"
	case args[0] == "cas" && strconv.FormatUint(old.cas, 10) != args[5]:
		return "EXISTS\r\n"
	case args[0] == "add" && old != nil, args[0] == "replace" && old == nil:
		return "NOT_STORED\r\n"
	}
	if old != nil {
		size -= len(key) + len(old.value) + fakeHeader
	}
	for f.conf.memory > 0 && f.memory()+size > f.conf.memory {
		last := f.used.Back()
		if last == nil || f.conf.noEvict {
			return "SERVER_ERROR out of memory storing object\r\n"
		}
		if last.Value.(*fakeItem).key == key {
			f.used.MoveToFront(last)
			if last = f.used.Back(); last.Value.(*fakeItem).key == key {
				return "SERVER_ERROR out of memory storing object\r\n"
			}
		}
		f.drop(last.Value.(*fakeItem).key)
		f.evicted++
	}
	f.drop(key)
	it := &fakeItem{key: key, flags: args[2], value: value, expires: f.expiry(args[3])}
	f.number(it)
	f.items[key] = f.used.PushFront(it)
	return "STORED\r\n"
}

func (f *fake) number(it *fakeItem) {
	if !f.conf.noCAS {
		f.last++
		it.cas = f.last
	}
}

func (f *fake) memory() (n int) {
	for e := f.used.Front(); e != nil; e = e.Next() {
		it := e.Value.(*fakeItem)
		n += len(it.key) + len(it.value) + fakeHeader
	}
	return n
}

func (f *fake) count(args []string) string {
	it := f.find(args[1])
	if it == nil {
		return "NOT_FOUND\r\n"
	}
	n, err := strconv.ParseUint(string(it.value), 10, 64)
	by, err2 := strconv.ParseUint(args[2], 10, 64)
	if err != nil || err2 != nil {
		return "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
	}
	if args[0] == "decr" {
		n -= min(n, by)
	} else {
		n += by
	}
	it.value = strconv.AppendUint(nil, n, 10)
	f.number(it)
	return string(it.value) + "\r\n"
}

func (f *fake) stats(which []string) string {
	var b strings.Builder
	stat := func(name string, value any) { fmt.Fprintf(&b, "STAT %s %v\r\n", name, value) }
	onOff := map[bool]string{false: "on", true: "off"}
	if len(which) > 0 && which[0] == "settings" {
		stat("maxbytes", f.conf.memory)
		stat("evictions", onOff[f.conf.noEvict])
		stat("cas_enabled", map[bool]string{false: "yes", true: "no"}[f.conf.noCAS])
		stat("item_size_max", f.conf.maxItem)
	} else {
		stat("time", f.conf.now().Unix())
		stat("curr_items", len(f.items))
		stat("evictions", f.evicted)
		stat("rejected_connections", 0)
	}
	return b.String() + "END\r\n"
}

// expiry reads a time to live. The clock ticks in seconds.
func (f *fake) expiry(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	now := f.conf.now().Unix()
	switch {
	case n == 0:
		return 0
	case n < 0:
		return now
	case n <= 60*60*24*30:
		return now + n
	}
	return n
}

func (f *fake) find(key string) *fakeItem {
	e := f.items[key]
	if e == nil {
		return nil
	}
	it := e.Value.(*fakeItem)
	if it.expires != 0 && it.expires <= f.conf.now().Unix() {
		f.drop(key)
		return nil
	}
	f.used.MoveToFront(e)
	return it
}

func (f *fake) drop(key string) {
	if e := f.items[key]; e != nil {
		f.used.Remove(e)
		delete(f.items, key)
	}
}

// The tests' own hands on the server.

// evict drops an item, as a server does that is full.
func (f *fake) evict(t testing.TB, key string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.find(key) == nil {
		t.Fatalf("there is no item %q to evict", key)
	}
	f.drop(key)
}

// keys are those of the items whose key begins so.
func (f *fake) keys(prefix string) (keys []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.items {
		if strings.HasPrefix(key, prefix) && f.find(key) != nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// item returns a copy.
func (f *fake) item(t testing.TB, key string) fakeItem {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	it := f.find(key)
	if it == nil {
		t.Fatalf("there is no item %q", key)
	}
	return *it
}

// write puts a text in place of an item's.
func (f *fake) write(t testing.TB, key string, value []byte) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if answer := f.store([]string{"set", key, "0", "0", strconv.Itoa(len(value))}, value); answer != "STORED\r\n" {
		t.Fatal(answer)
	}
}

// garble makes a get of the key answer with a text; "" mends it.
func (f *fake) garble(key, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.garbled = map[string]string{key: text}
}

// commands returns what was asked since the last call.
func (f *fake) commands() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}
