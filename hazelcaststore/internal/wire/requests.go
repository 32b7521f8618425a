package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// The types of requests.
const (
	kindError        = 0x000000
	kindAuthenticate = 0x000100
	kindCreateProxy  = 0x000400
	kindPing         = 0x000B00
	kindGetConfig    = 0x130C00
	kindGet          = 0x130D00
	kindIterate      = 0x130E00
	kindPutIfAbsent  = 0x131200
	kindRemove       = 0x131600
	kindReplace      = 0x131700
)

const nowhere = -1 // no partition

// cacheName is how a member calls a cache that its configuration declares.
func cacheName(cache string) string { return "/hz/" + cache }

// authenticate is the first message on a connection.
//
//	uuid: byte 0 (it is there), two int64, the higher first
//	byte 1: version of the serialization; byte 0: this client knows one member; byte 0
//	cluster, user or null, password or null, kind of client, its version and name
//	begin, labels, end
func authenticate(cluster, user, password string, id [16]byte) *Request {
	parameters := []byte{0}
	parameters = binary.LittleEndian.AppendUint64(parameters, binary.BigEndian.Uint64(id[:]))
	parameters = binary.LittleEndian.AppendUint64(parameters, binary.BigEndian.Uint64(id[8:]))
	parameters = append(parameters, 1, 0, 0)
	r := newRequest(kindAuthenticate, nowhere, parameters...)
	r.string(cluster)
	r.nullable(user)
	r.nullable(password)
	r.string("GOO")
	r.string("1.0.0")
	r.string("session")
	r.frame(flagBegin)
	r.frame(flagEnd)
	return r
}

// login is what a member answers to authenticate: at 13 the status, at 32 the
// number of partitions, at 36 the cluster's ID: byte 0, two int64.
type login struct {
	status     byte // 0: welcome
	partitions int32
	cluster    [16]byte // random, made when the cluster was founded
}

func (m *Message) login() (l login, err error) {
	b, err := m.fixed(0, 36+17)
	if err != nil {
		return l, err
	}
	l.status = b[13]
	l.partitions = int32(binary.LittleEndian.Uint32(b[32:]))
	copy(l.cluster[:], b[37:])
	if l.status == 0 && l.partitions < 1 {
		return l, ErrMalformed
	}
	return l, nil
}

// createProxy makes the member create the cache that it has declared.
//
//	cache, service
func createProxy(cache string) *Request {
	r := newRequest(kindCreateProxy, nowhere)
	r.string(cacheName(cache))
	r.string("hz:impl:cacheService")
	return r
}

// ping shows that this client lives.
func ping() *Request { return newRequest(kindPing, nowhere) }

// get reads an entry, and leaves its time to live alone.
//
//	cache, key, null (the expiry policy)
//
// It answers one Data or null.
func get(cache string, key Data, partition int32) *Request {
	r := newRequest(kindGet, partition)
	r.string(cacheName(cache))
	r.frame(0, key)
	r.frame(flagNull)
	return r
}

// value is the answer to get. What is no array of bytes was not written by this
// client: it is empty.
func (m *Message) value() ([]byte, error) {
	f, err := m.frame(1)
	if err != nil || f.is(flagNull) {
		return nil, err
	}
	if value, ok := Data(f.body).counted(typeBytes); ok {
		return value, nil
	}
	return []byte{}, nil
}

// noListener says that nobody waits for an event.
var noListener = []byte{0xff, 0xff, 0xff, 0xff}

// putIfAbsent creates an entry.
//
//	int32 -1
//	cache, key, value, expiry policy
//
// It answers at 13 whether it did.
func putIfAbsent(cache string, key, value Data, ttl time.Duration, partition int32) *Request {
	r := newRequest(kindPutIfAbsent, partition, noListener...)
	r.string(cacheName(cache))
	r.frame(0, key)
	r.frame(0, value)
	r.frame(0, expiry(ttl))
	return r
}

// replace replaces an entry whose value is old, byte for byte.
//
//	int32 -1
//	cache, key, old value, new value, expiry policy
//
// It answers a Data, a boolean: whether it did.
func replace(cache string, key, old, value Data, ttl time.Duration, partition int32) *Request {
	r := newRequest(kindReplace, partition, noListener...)
	r.string(cacheName(cache))
	r.frame(0, key)
	r.frame(0, old)
	r.frame(0, value)
	r.frame(0, expiry(ttl))
	return r
}

// replaced is the answer to replace.
func (m *Message) replaced() (bool, error) {
	f, err := m.frame(1)
	if err != nil {
		return false, err
	}
	done, ok := Data(f.body).boolean()
	if !ok {
		return false, ErrMalformed
	}
	return done, nil
}

// remove removes an entry whose value is old, byte for byte, or whatever it is
// if old is nil.
//
//	int32 -1
//	cache, key, old value or null
//
// It answers at 13 whether it did.
func remove(cache string, key, old Data, partition int32) *Request {
	r := newRequest(kindRemove, partition, noListener...)
	r.string(cacheName(cache))
	r.frame(0, key)
	if old == nil {
		r.frame(flagNull)
	} else {
		r.frame(0, old)
	}
	return r
}

// getConfig asks how a cache is configured.
//
//	cache as the protocol and as the configuration calls it
func getConfig(cache string) *Request {
	r := newRequest(kindGetConfig, nowhere)
	r.string(cacheName(cache))
	r.string(cache)
	return r
}

// A Config is what matters of a cache's configuration.
type Config struct {
	Backups, AsyncBackups int32
	Format                string // BINARY, OBJECT, NATIVE
	EvictionSize          int32
	EvictionUnit          string // ENTRY_COUNT and others
	Expiry                string // Eternal, Created, Modified, Accessed, Touched: what a read is subject to; "" if it is another
}

// config is the answer to getConfig; ok is false if there is no such cache.
//
//	begin, int32 backups · int32 asynchronous ones · …
//	name, prefix or null, URI or null, format
//	begin, int32 size, unit of the size, eviction policy, …, end
//	replication to another cluster or null, class of the keys, of the values,
//	loader or null, writer or null, Data of the expiry policy's factory, …
func (m *Message) config() (c Config, ok bool, err error) {
	f, err := m.frame(1)
	if err != nil || f.is(flagNull) {
		return c, false, err
	}
	counts, err := m.part(2, 0, 8)
	if err != nil {
		return c, false, err
	}
	size, err := m.part(8, 0, 4)
	if err != nil {
		return c, false, err
	}
	unit, err := m.frame(9)
	if err != nil || !m.frames[1].is(flagBegin) || !m.frames[7].is(flagBegin) {
		return c, false, ErrMalformed
	}
	policy, err := m.frame(m.skip(7, 1+5))
	if err != nil {
		return c, false, err
	}
	return Config{
		Backups:      int32(binary.LittleEndian.Uint32(counts)),
		AsyncBackups: int32(binary.LittleEndian.Uint32(counts[4:])),
		Format:       word(m.frames[6].body),
		EvictionSize: int32(binary.LittleEndian.Uint32(size)),
		EvictionUnit: word(unit.body),
		Expiry:       policyName(policy.body),
	}, true, nil
}

// policyName tells which of JCache's policies a factory makes. Its Data is a
// Java stream, which names the class.
func policyName(factory []byte) string {
	for _, name := range []string{"Eternal", "Created", "Modified", "Accessed", "Touched"} {
		if bytes.Contains(factory, []byte("javax.cache.expiry."+name+"ExpiryPolicy")) {
			return name
		}
	}
	return ""
}

// word is a short text that may be shown: what else is in it is left out.
func word(b []byte) string {
	return strings.Map(func(c rune) rune {
		if c > ' ' && c <= '~' {
			return c
		}
		return -1
	}, string(b[:min(len(b), 120)]))
}

// iterate asks for keys of a partition. pointers are where it ended the last
// time, as the member put it.
//
//	int32 number of keys
//	cache, pointers
//
// It answers pointers, begin, the keys, end.
func iterate(cache string, pointers []byte, keys, partition int32) *Request {
	r := newRequest(kindIterate, partition, binary.LittleEndian.AppendUint32(nil, uint32(keys))...)
	r.string(cacheName(cache))
	r.frame(0, pointers)
	return r
}

// A pointer is two int32: a place in the partition's table, and the table's
// size. Before the first keys they are these; a place below 0 is the end.
const pointerLen = 8

var firstPointer = []byte{0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff}

// keys is the answer to iterate; what is no text was not written by this client
// and is left out. pointers are nil at the end.
func (m *Message) keys() (keys []string, pointers []byte, err error) {
	f, err := m.frame(1)
	if err != nil || len(f.body) < pointerLen || len(f.body)%pointerLen != 0 || len(m.frames) < 4 || !m.frames[2].is(flagBegin) {
		return nil, nil, ErrMalformed
	}
	for _, f := range m.frames[3:] {
		if f.is(flagEnd) {
			break
		}
		if key, ok := Data(f.body).counted(typeString); ok {
			keys = append(keys, string(key))
		}
	}
	if last := f.body[len(f.body)-pointerLen:]; int32(binary.LittleEndian.Uint32(last)) < 0 {
		return keys, nil, nil
	}
	return keys, f.body, nil
}

// An Error is a member's refusal.
type Error struct {
	Code  int32
	Class string // of the exception; its text may show keys, so nobody does
}

// The codes that a client has to know.
const (
	CodeNoCache   = 6  // CacheNotExistsException
	CodeNotActive = 19 // HazelcastInstanceNotActiveException: it starts or stops
)

func (e *Error) Error() string { return fmt.Sprintf("the member answers %s (%d)", e.Class, e.Code) }

// failure is an error's answer: begin, begin, int32 code · …, class, …
func (m *Message) failure() error {
	code, err := m.part(3, 0, 4)
	if err != nil {
		return err
	}
	class, err := m.frame(4)
	if err != nil {
		return err
	}
	name := word(class.body)
	return &Error{Code: int32(binary.LittleEndian.Uint32(code)), Class: name[strings.LastIndexByte(name, '.')+1:]}
}
