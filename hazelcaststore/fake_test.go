package hazelcaststore_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session/hazelcaststore"
)

// fakeConf is what a fakeCluster is like.
type fakeConf struct {
	now            func() time.Time // nil: time.Now
	user, password string
	backups, async int32
	format         string
	size           int32
	unit           string
	expiry         string // the class of the cache's own policy
	class          string // of the exception that the expiry policy causes; "": none
}

// sound is a configuration that is fit for sessions.
var sound = fakeConf{backups: 1, format: "BINARY", size: math.MaxInt32, unit: "ENTRY_COUNT", expiry: "javax.cache.expiry.EternalExpiryPolicy"}

// fakeCluster is members in this process that have the same entries, of the
// cluster "dev" with the cache "sessions". They understand the messages that a
// cache of bytes needs, and check what a member trusts the client with.
type fakeCluster struct {
	t    testing.TB
	conf fakeConf
	id   byte // of the cluster

	mu       sync.Mutex
	entries  map[string]fakeEntry // by the key's Data
	inactive map[string]bool      // members that start or stop
	proxies  map[net.Conn]bool    // connections that have created the cache
	log      []string             // requests
}

type fakeEntry struct {
	value   []byte // Data
	expires time.Time
}

func newFake(t testing.TB, conf fakeConf) *fakeCluster {
	if conf.now == nil {
		conf.now = time.Now
	}
	return &fakeCluster{t: t, conf: conf, id: 1, entries: map[string]fakeEntry{}, inactive: map[string]bool{}, proxies: map[net.Conn]bool{}}
}

// member starts a member and returns its address.
func (f *fakeCluster) member() string {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	addr := l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	f.t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				f.serve(addr, c)
			})
		}
	})
	return addr
}

// A fakeFrame has its flags before its body.
type fakeFrame struct {
	flags uint16
	body  []byte
}

func readFrames(r io.Reader) (frames []fakeFrame, err error) {
	for {
		var head [6]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		f := fakeFrame{binary.LittleEndian.Uint16(head[4:]), make([]byte, binary.LittleEndian.Uint32(head[:])-6)}
		if _, err := io.ReadFull(r, f.body); err != nil {
			return nil, err
		}
		frames = append(frames, f)
		if f.flags&0x2000 != 0 {
			return frames, nil
		}
	}
}

func (f *fakeCluster) serve(addr string, c net.Conn) {
	r := bufio.NewReader(c)
	hello := make([]byte, 3)
	if _, err := io.ReadFull(r, hello); err != nil || string(hello) != "CP2" {
		return
	}
	for {
		frames, err := readFrames(r)
		if err != nil {
			return
		}
		first := frames[0].body
		kind := binary.LittleEndian.Uint32(first)
		answer := f.answer(addr, c, kind, int32(binary.LittleEndian.Uint32(first[12:])), first[16:], frames[1:])
		head := binary.LittleEndian.AppendUint32(nil, kind+1)
		if answer[0].flags == thrown {
			head = make([]byte, 4)
		}
		head = append(append(head, first[4:12]...), 0)
		answer[0] = fakeFrame{0xC000, append(head, answer[0].body...)}
		answer[len(answer)-1].flags |= 0x2000
		var b []byte
		for _, f := range answer {
			b = binary.LittleEndian.AppendUint32(b, uint32(6+len(f.body)))
			b = binary.LittleEndian.AppendUint16(b, f.flags)
			b = append(b, f.body...)
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

const (
	flagNull  = 0x0400
	flagBegin = 0x1000
	flagEnd   = 0x0800
	thrown    = 1 // of a first frame: the answer is an exception
)

func text(s string) fakeFrame { return fakeFrame{body: []byte(s)} }
func int32s(n ...int32) []byte {
	var b []byte
	for _, n := range n {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return b
}

func exception(code int32, class string) []fakeFrame {
	return []fakeFrame{{flags: thrown}, {flags: flagBegin}, {flags: flagBegin}, {body: int32s(code)}, text(class), text("the message"), {flags: flagEnd}, {flags: flagEnd}}
}

func yes(b bool) []fakeFrame {
	if b {
		return []fakeFrame{{body: []byte{1}}}
	}
	return []fakeFrame{{body: []byte{0}}}
}

var names = map[uint32]string{
	0x000100: "authenticate", 0x000400: "create proxy", 0x000B00: "ping", 0x130C00: "config",
	0x130D00: "get", 0x130E00: "iterate", 0x131200: "add", 0x131600: "remove", 0x131700: "replace",
}

const fakePartitions = 7

// answer does what a request asks for; the first frame's head is made later.
func (f *fakeCluster) answer(addr string, c net.Conn, kind uint32, partition int32, fixed []byte, frames []fakeFrame) []fakeFrame {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, names[kind])
	if f.inactive[addr] {
		return exception(19, "com.hazelcast.core.HazelcastInstanceNotActiveException")
	}
	switch kind {
	case 0x000100:
		return f.authenticate(frames)
	case 0x000B00:
		return []fakeFrame{{}}
	case 0x000400:
		if string(frames[0].body) != "/hz/sessions" || string(frames[1].body) != "hz:impl:cacheService" {
			return exception(6, "com.hazelcast.cache.CacheNotExistsException")
		}
		f.proxies[c] = true
		return []fakeFrame{{}}
	}
	if !f.proxies[c] {
		return exception(6, "com.hazelcast.cache.CacheNotExistsException")
	}
	if string(frames[0].body) != "/hz/sessions" {
		f.t.Errorf("a request for the cache %q", frames[0].body)
	}
	switch kind {
	case 0x130C00:
		return []fakeFrame{{}, {flags: flagBegin}, {body: append(int32s(f.conf.backups, f.conf.async), 0, 0, 0, 0, 0, 0)},
			text("sessions"), {flags: flagNull}, {flags: flagNull}, text(f.conf.format),
			{flags: flagBegin}, {body: int32s(f.conf.size)}, text(f.conf.unit), text("LRU"), {flags: flagNull}, {flags: flagNull}, {flags: flagEnd},
			{flags: flagBegin}, text("backup"), {flags: flagBegin}, {flags: flagEnd}, {flags: flagEnd}, // replication
			text("java.lang.Object"), text("java.lang.Object"), {flags: flagNull}, {flags: flagNull}, text("factory of " + f.conf.expiry),
			{flags: flagEnd}}
	case 0x130E00:
		return f.iterate(partition, fixed, frames[1].body)
	}
	key := frames[1].body
	if partition != fakePartition(key) {
		f.t.Errorf("%s is sent to partition %d", key, partition)
	}
	return f.entry(kind, string(key), frames[2:])
}

func (f *fakeCluster) authenticate(frames []fakeFrame) []fakeFrame {
	status := byte(0)
	if string(frames[0].body) != "dev" || string(frames[1].body) != f.conf.user || string(frames[2].body) != f.conf.password {
		status = 1
	}
	results := make([]byte, 62-13)
	results[0] = status
	copy(results[32-13:], int32s(fakePartitions))
	results[37-13] = f.id
	return []fakeFrame{{body: results}}
}

// fakePartition is the client's own, which is tested against what Hazelcast's
// gives.
func fakePartition(key []byte) int32 { return hazelcaststore.PartitionOf(key, fakePartitions) }

// entry does what concerns one entry.
func (f *fakeCluster) entry(kind uint32, key string, rest []fakeFrame) []fakeFrame {
	e, there := f.entries[key]
	if there && !f.conf.now().Before(e.expires) {
		delete(f.entries, key)
		there = false
	}
	put := func(value, policy fakeFrame) {
		ms := int64(binary.BigEndian.Uint64(policy.body[8+215:]))
		f.entries[key] = fakeEntry{value.body, f.conf.now().Add(time.Duration(ms) * time.Millisecond)}
	}
	if f.conf.class != "" && (kind == 0x131200 || kind == 0x131700) {
		return exception(70, f.conf.class)
	}
	switch kind {
	case 0x130D00:
		if !there {
			return []fakeFrame{{}, {flags: flagNull}}
		}
		return []fakeFrame{{}, {body: e.value}}
	case 0x131200:
		if !there {
			put(rest[0], rest[1])
		}
		return yes(!there)
	case 0x131700:
		done := there && bytes.Equal(e.value, rest[0].body)
		if done {
			put(rest[1], rest[2])
		}
		data := append([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfc}, yes(done)[0].body...)
		return []fakeFrame{{}, {body: data}}
	case 0x131600:
		done := there && (rest[0].flags&flagNull != 0 || bytes.Equal(e.value, rest[0].body))
		if done {
			delete(f.entries, key)
		}
		return yes(done)
	}
	f.t.Errorf("a request of type %#x", kind)
	return exception(1, "java.lang.UnsupportedOperationException")
}

// iterate gives a few keys at a time, in the order of a hash; the pointer is the
// next hash, so that none is missed when others go.
func (f *fakeCluster) iterate(partition int32, fixed, pointers []byte) []fakeFrame {
	from := int32(binary.LittleEndian.Uint32(pointers))
	if from == math.MaxInt32 {
		from = 0
	}
	place := func(key string) int32 { return int32(crc32.ChecksumIEEE([]byte(key)) >> 2) }
	var keys []string
	for key := range f.entries {
		if fakePartition([]byte(key)) == partition && place(key) >= from {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Compare(place(a), place(b)) })
	next := int32(-1)
	if n := min(3, int(int32(binary.LittleEndian.Uint32(fixed)))); len(keys) > n {
		next = place(keys[n])
		keys = keys[:n]
	}
	answer := []fakeFrame{{}, {body: int32s(next, fakePartitions)}, {flags: flagBegin}}
	for _, key := range keys {
		answer = append(answer, text(key))
	}
	return append(answer, fakeFrame{flags: flagEnd})
}

// forget makes every connection create the cache again, as after a restart of
// all members.
func (f *fakeCluster) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.proxies)
}

// lose takes an entry away.
func (f *fakeCluster) lose(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, hazelcaststore.DataKey(key))
}

// stopping says that a member starts or stops, or no longer.
func (f *fakeCluster) stopping(addr string, is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inactive[addr] = is
}

// requests are those since the last call.
func (f *fakeCluster) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

// len is the number of entries.
func (f *fakeCluster) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries)
}

// left is how long the entry under a key lives yet; 0 if it is not there.
func (f *fakeCluster) left(key string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.entries[hazelcaststore.DataKey(key)]
	if !ok {
		return 0
	}
	return e.expires.Sub(f.conf.now())
}
