package wire

import (
	"context"
	"time"
)

// Get returns a value, nil if there is none.
func (c *Conn) Get(ctx context.Context, key string) ([]byte, error) {
	k := Key(key)
	m, err := c.do(ctx, func() *Request { return get(c.opts.Cache, k, k.Partition(c.partitions)) })
	return answer(c, m, err, (*Message).value)
}

// PutIfAbsent creates an entry, and tells whether it did.
func (c *Conn) PutIfAbsent(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error) {
	k := Key(key)
	m, err := c.do(ctx, func() *Request {
		return putIfAbsent(c.opts.Cache, k, Bytes(value), ttl, k.Partition(c.partitions))
	})
	return answer(c, m, err, (*Message).bool)
}

// Replace replaces an entry whose value is old, and tells whether it did.
func (c *Conn) Replace(ctx context.Context, key string, old, value []byte, ttl time.Duration) (bool, error) {
	k := Key(key)
	m, err := c.do(ctx, func() *Request {
		return replace(c.opts.Cache, k, Bytes(old), Bytes(value), ttl, k.Partition(c.partitions))
	})
	return answer(c, m, err, (*Message).replaced)
}

// Remove removes an entry whose value is old, or whatever it is if old is nil,
// and tells whether it did.
func (c *Conn) Remove(ctx context.Context, key string, old []byte) (bool, error) {
	k := Key(key)
	m, err := c.do(ctx, func() *Request {
		var is Data
		if old != nil {
			is = Bytes(old)
		}
		return remove(c.opts.Cache, k, is, k.Partition(c.partitions))
	})
	return answer(c, m, err, (*Message).bool)
}

// A Page is some keys of a partition, and where the next ones are.
type Page struct {
	Keys []string
	Next []byte // nil: there are no more
}

// pageSize is how many keys a member is asked for at a time.
const pageSize = 500

// Keys returns some keys of a partition: the first if from is nil, and then
// those from the last Page's Next. Keys of expired entries may be among them.
func (c *Conn) Keys(ctx context.Context, partition int32, from []byte) (Page, error) {
	if from == nil {
		from = firstPointer
	}
	m, err := c.do(ctx, func() *Request { return iterate(c.opts.Cache, from, pageSize, partition) })
	return answer(c, m, err, func(m *Message) (p Page, err error) {
		p.Keys, p.Next, err = m.keys()
		return p, err
	})
}

// CacheConfig returns the cache's configuration; ErrNoCache if there is none.
func (c *Conn) CacheConfig(ctx context.Context) (Config, error) {
	m, err := c.do(ctx, func() *Request { return getConfig(c.opts.Cache) })
	return answer(c, m, err, func(m *Message) (Config, error) {
		config, ok, err := m.config()
		if err == nil && !ok {
			err = ErrNoCache
		}
		return config, err
	})
}

// answer reads an answer. One that cannot be read costs the connection: who
// knows what comes next.
func answer[T any](c *Conn, m *Message, err error, read func(*Message) (T, error)) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	v, err := read(m)
	if err != nil {
		if err != ErrNoCache {
			c.fail(err)
		}
		return none, err
	}
	return v, nil
}
