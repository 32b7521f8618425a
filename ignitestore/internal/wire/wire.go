// Package wire speaks the part of Apache Ignite's thin-client protocol 1.7 that
// keeps sessions.
//
// All numbers are little-endian. A message is its length (int32) and as many
// bytes:
//
//	handshake   byte 1 · int16 1 · int16 7 · int16 0 · byte 2 · features [user · password]
//	  answer    byte 1 · features · member         or, refused,
//	            byte 0 · 3 × int16 version · message · int32 status
//	request     int16 operation · int64 id · payload
//	  answer    int64 id · int16 flags · [flag 2: int64 · int32] · payload, or
//	            [flag 1: int32 status · message]
//
// features is a byte array, and none are asked for; member is a UUID, byte 10
// and 16 bytes. An object is byte 9 · int32 length · UTF-8 for a string, byte 12
// · int32 length · bytes for a byte array, byte 101 for null. Keys are strings,
// values byte arrays.
//
// The payload of what concerns a cache begins with int32 cache · byte flags ·
// [flag 4: int64 at creation · int64 at update · int64 at access], milliseconds
// of life, where −2 leaves it as it is and −1 is for ever:
//
//	get                  1000  key                       object or null
//	put if absent        1002  key · value               byte 1 if it was
//	get all              1003  int32 count · keys        int32 count · (key · value)
//	replace if equal     1010  key · old · new           byte 1 if it was
//	remove               1016  key                       byte 1 if there was one
//	scan                 2000  null · int32 rows of a page · int32 −1 · byte 0
//	                           int64 cursor · int32 count · (key · value) · byte 1 if there is more
//	cache configuration  1055                            int32 length · see Config
//
// and others name what they want:
//
//	next page            2001  int64 cursor              as scan's, without the cursor
//	close                   0  int64 cursor              nothing
//	get or create cache  1054  int32 length · int16 count · (int16 property · value)
package wire

import (
	"context"
	"fmt"
	"time"
)

const (
	opClose     = 0
	opGet       = 1000
	opAdd       = 1002
	opGetAll    = 1003
	opReplace   = 1010
	opRemove    = 1016
	opCreate    = 1054
	opConfig    = 1055
	opScan      = 2000
	opScanPage  = 2001
	withExpiry  = 4
	unchanged   = -2
	eternal     = -1
	smallestRow = 5 + 1 // an empty key and a null
)

// Forever is a time to live that does not end.
const Forever = time.Duration(-1)

// An Entry is a key and its value.
type Entry struct {
	Key   string
	Value []byte
}

func newRequest(op int16) message { return make(message, 4, 64).int16(op).int64(0) }

func about(op int16, cache int32) message { return newRequest(op).int32(cache).byte(0) }

// reading is a request that leaves the time to live as it is, whatever policy the
// cache has of its own. A scan takes none.
func reading(op int16, cache int32) message {
	return newRequest(op).int32(cache).byte(withExpiry).int64(unchanged).int64(unchanged).int64(unchanged)
}

// living is a request that gives what it writes a time to live; a read leaves it.
func living(op int16, cache int32, ttl time.Duration, size int) message {
	ms := int64(eternal)
	if ttl != Forever {
		ms = milliseconds(ttl)
	}
	m := make(message, 4, 64+size).int16(op).int64(0)
	return m.int32(cache).byte(withExpiry).int64(ms).int64(ms).int64(unchanged)
}

// Get returns the value of a key, nil if there is none.
func (c *Conn) Get(ctx context.Context, cache int32, key string) (value []byte, err error) {
	err = c.ask(ctx, reading(opGet, cache).string(key), func(p *parser) { value = p.object(typeBytes) })
	return value, err
}

// GetAll returns the entries that are there, of those that keys name.
func (c *Conn) GetAll(ctx context.Context, cache int32, keys []string) (found []Entry, err error) {
	m := reading(opGetAll, cache).int32(int32(len(keys)))
	for _, key := range keys {
		m = m.string(key)
	}
	err = c.ask(ctx, m, func(p *parser) { found = p.entries(len(keys)) })
	return found, err
}

// entries reads rows, of which more than were asked for are nonsense; one without
// a value is none.
func (p *parser) entries(most int) (rows []Entry) {
	n := p.count(smallestRow)
	p.failed = p.failed || n > most
	for range n {
		if p.failed {
			return nil
		}
		key, value := p.object(typeString), p.object(typeBytes)
		if value != nil {
			rows = append(rows, Entry{string(key), value})
		}
	}
	return rows
}

// PutIfAbsent adds an entry, which lives for ttl, and tells whether it was
// added.
func (c *Conn) PutIfAbsent(ctx context.Context, cache int32, key string, value []byte, ttl time.Duration) (done bool, err error) {
	m := living(opAdd, cache, ttl, len(key)+len(value)).string(key).bytes(value)
	err = c.ask(ctx, m, func(p *parser) { done = p.bool() })
	return done, err
}

// Replace replaces the value of a key if it is old, and tells whether it was.
func (c *Conn) Replace(ctx context.Context, cache int32, key string, old, value []byte, ttl time.Duration) (done bool, err error) {
	m := living(opReplace, cache, ttl, len(key)+len(old)+len(value)).string(key).bytes(old).bytes(value)
	err = c.ask(ctx, m, func(p *parser) { done = p.bool() })
	return done, err
}

// Remove tells whether there was an entry to remove.
func (c *Conn) Remove(ctx context.Context, cache int32, key string) (was bool, err error) {
	err = c.ask(ctx, about(opRemove, cache).string(key), func(p *parser) { was = p.bool() })
	return was, err
}

// A Page is a part of a scan. If there is More, it goes on under Cursor, on the
// same connection, until CloseCursor.
type Page struct {
	Rows   []Entry
	Cursor int64
	More   bool
}

// Scan returns the first page of all entries of a cache. One that comes after
// ctx's end is closed.
func (c *Conn) Scan(ctx context.Context, cache int32, rows int) (page Page, err error) {
	m := about(opScan, cache).byte(typeNull).int32(int32(rows)).int32(-1).byte(0)
	read := func(page *Page) func(*parser) {
		return func(p *parser) {
			page.Cursor = p.int64()
			page.Rows, page.More = p.entries(rows), p.bool()
		}
	}
	err = c.askLate(ctx, m, read(&page), func(answer []byte) {
		var late Page
		if err := parseAnswer(answer, read(&late)); err == nil && late.More {
			c.Abandon(late.Cursor)
		}
	})
	return page, err
}

// NextPage returns the page after the last.
func (c *Conn) NextPage(ctx context.Context, cursor int64, rows int) (page Page, err error) {
	page.Cursor = cursor
	err = c.ask(ctx, newRequest(opScanPage).int64(cursor), func(p *parser) { page.Rows, page.More = p.entries(rows), p.bool() })
	return page, err
}

// patience is how long an abandoned cursor may take to close.
const patience = 10 * time.Second

// Abandon closes a cursor in the background. If the member does not answer the
// connection is given up, and the cursor with it.
func (c *Conn) Abandon(cursor int64) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.CloseCursor(ctx, cursor) // or it has gone already
	}()
}

// CloseCursor ends a scan before its last page, after which it ends by itself.
func (c *Conn) CloseCursor(ctx context.Context, cursor int64) error {
	return c.ask(ctx, newRequest(opClose).int64(cursor), func(*parser) {})
}

// Config is what the protocol tells of a cache that matters to sessions.
type Config struct {
	Atomic         bool // otherwise transactional
	Backups        int
	Replicated     bool // every member has all; Backups means nothing
	Region         string
	EagerTTL       bool // entries that have expired are removed before somebody asks for them
	ReadFromBackup bool
	FullSync       bool // a write is acknowledged when all copies have it
	ReadsExpire    bool // the cache's own policy moves an entry's end when it is read
}

// The values of Ignite's enumerations that sessions want, by their places.
const (
	Replicated  = 1 // mode
	Partitioned = 2
	Atomic      = 1 // atomicity
	FullSync    = 0 // synchronisation
)

// CacheConfig returns the configuration of a cache.
func (c *Conn) CacheConfig(ctx context.Context, cache int32) (conf Config, err error) {
	err = c.ask(ctx, about(opConfig, cache), func(p *parser) { conf = p.config() })
	return conf, err
}

// config reads a configuration:
//
//	int32 length · int32 atomicity · int32 backups · int32 mode · byte copies on
//	read · region · byte eager TTL · byte statistics · group · int64 · int32 ·
//	int32 · name · byte on heap · int32 partition loss · int32 · int32 · byte
//	read from backup · int32 · int64 · int64 · int32 · int32 · int64 · int64 ·
//	byte · int32 · schema · int32 synchronisation · int32 count · key
//	configurations · int32 count · query entities · byte 0 or
//	byte 1 · int64 at creation · int64 at update · int64 at access
//
// What follows a query entity is not read.
func (p *parser) config() (c Config) {
	q := &parser{b: p.take(int(p.int32()))}
	c.Atomic = q.int32() == Atomic
	c.Backups = int(q.int32())
	mode := q.int32()
	c.Replicated = mode == Replicated
	q.bool()
	c.Region = string(q.object(typeString))
	c.EagerTTL = q.bool()
	q.bool()
	q.object(typeString)
	q.take(8 + 4 + 4)
	q.object(typeString)
	q.bool()
	q.take(4 + 4 + 4)
	c.ReadFromBackup = q.bool()
	q.take(4 + 8 + 8 + 4 + 4 + 8 + 8 + 1 + 4)
	q.object(typeString)
	c.FullSync = q.int32() == FullSync
	if keys := q.int32(); keys == 0 {
		if entities := q.int32(); entities == 0 && q.bool() {
			q.take(8 + 8)
			c.ReadsExpire = q.int64() != unchanged
		}
	}
	p.failed = p.failed || q.failed || mode != Partitioned && mode != Replicated
	return c
}

// A NewCache is a cache to be made, in Ignite's words.
type NewCache struct {
	Mode, Atomicity, Backups, Sync int32
	ReadFromBackup, EagerTTL       bool
}

// CreateCache makes a cache if there is none of that name. One that is there
// stays as it is.
func (c *Conn) CreateCache(ctx context.Context, name string, conf NewCache) error {
	m := newRequest(opCreate).int32(0)
	from := len(m)
	m = m.int16(7)
	m = m.int16(0).string(name)
	m = m.int16(1).int32(conf.Mode)
	m = m.int16(2).int32(conf.Atomicity)
	m = m.int16(3).int32(conf.Backups)
	m = m.int16(4).int32(conf.Sync)
	m = m.int16(6).bool(conf.ReadFromBackup)
	m = m.int16(405).bool(conf.EagerTTL)
	order.PutUint32(m[from-4:], uint32(len(m)-from))
	if err := c.ask(ctx, m, func(*parser) {}); err != nil {
		return fmt.Errorf("create the cache %s: %w", name, err)
	}
	return nil
}
