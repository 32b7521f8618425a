package session

import (
	"context"
	"errors"
	"iter"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

const (
	redisBatch   = 100 // records read in one round trip
	redisDeletes = 8   // sessions that DeleteUser ends at a time
	redisScan    = 500 // keys that SCAN looks at
)

// enter writes an index entry on a server of its own.
func (s *RedisStore) enter(ctx context.Context, index, id, score string, now int64) error {
	_, err := s.write(ctx, enterScript, []string{index}, id, score, now)
	return err
}

// List implements Lister.
func (s *RedisStore) List(ctx context.Context, user string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if user == "" {
			return
		}
		ids, err := within(ctx, s, func() ([]string, error) {
			return s.client.ZRange(ctx, s.index(user), 0, -1).Result()
		})
		if err != nil {
			yield(Info{}, s.redisError("list", err))
			return
		}
		for len(ids) > 0 {
			n := min(len(ids), redisBatch)
			recs, err := s.records(ctx, ids[:n])
			if err != nil {
				yield(Info{}, s.redisError("list", err))
				return
			}
			for _, rec := range recs {
				if rec.User == user && !yield(rec.Info(), nil) {
					return
				}
			}
			ids = ids[n:]
		}
	}
}

// records returns the live records of these IDs, without markers.
func (s *RedisStore) records(ctx context.Context, ids []string) ([]*Record, error) {
	texts, err := within(ctx, s, func() ([]*redis.StringCmd, error) {
		pipe := s.client.Pipeline()
		texts := make([]*redis.StringCmd, len(ids))
		for i, id := range ids {
			texts[i] = pipe.Get(ctx, s.key(id))
		}
		_, err := pipe.Exec(ctx)
		var answer redis.Error // of one command: nil, another type
		if errors.As(err, &answer) {
			err = nil
		}
		return texts, err
	})
	if err != nil {
		return nil, err
	}
	recs := make([]*Record, 0, len(ids))
	for i, text := range texts {
		b, err := text.Bytes()
		switch {
		case errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "WRONGTYPE"):
			continue
		case err != nil:
			return nil, err
		}
		rec, _, err := DecodeRecord(ids[i], b)
		if err != nil || rec.Replaced || rec.Expired(s.now()) {
			continue
		}
		recs = append(recs, rec)
	}
	return recs, nil
}

// DeleteUser implements UserDeleter. A failure leaves some sessions, and the
// next call finds them.
func (s *RedisStore) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	if user == "" {
		return 0, nil
	}
	index := s.index(user)
	entries, err := within(ctx, s, func() ([]redis.Z, error) {
		return s.client.ZRangeWithScores(ctx, index, 0, -1).Result()
	})
	if err != nil {
		return 0, s.redisError("delete user", err)
	}
	now := s.now().UnixMilli()
	escaped := url.QueryEscape(user)
	var (
		mu       sync.Mutex
		ended    int
		failures []error
		over     []any // entries whose record has expired
	)
	deleteOne := func(id string, score float64) {
		keys := []string{s.key(id)}
		if !s.apart.Load() {
			keys = append(keys, index)
		}
		code, err := s.write(ctx, deleteUserScript, keys, now, escaped, id)
		if len(keys) > 1 && redis.HasErrorPrefix(err, "CROSSSLOT") {
			s.apart.Store(true)
			code, err = s.write(ctx, deleteUserScript, keys[:1], now, escaped, id)
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			failures = append(failures, err)
		case code == 1:
			// Where the script could not remove the entry as well, it stays
			// until the Deadline: a sign-in that got no answer is sent again,
			// and may bring the record back.
			ended++
		case code == 2 || code == 0 && score <= float64(now):
			// An entry is written before its record: one that has no record yet
			// is a sign-in under way.
			over = append(over, id)
		}
	}
	var wg sync.WaitGroup
	turn := make(chan struct{}, redisDeletes)
	for _, e := range entries {
		id, _ := e.Member.(string)
		if id == keep || strings.HasPrefix(id, redisUser) {
			continue
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			deleteOne(id, e.Score)
		})
	}
	wg.Wait()
	for len(over) > 0 {
		n := min(len(over), redisBatch)
		if _, err := within(ctx, s, func() (int64, error) { return s.client.ZRem(ctx, index, over[:n]...).Result() }); err != nil {
			failures = append(failures, err)
			break
		}
		over = over[n:]
	}
	if len(failures) > 0 {
		// One is enough: they are mostly the same.
		return ended, s.redisError("delete user: "+strconv.Itoa(len(failures))+" of "+strconv.Itoa(len(entries))+" failed", failures[0])
	}
	return ended, nil
}

// Scan implements Scanner. On a Cluster it goes from server to server.
func (s *RedisStore) Scan(ctx context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		servers, err := s.servers(ctx)
		if err != nil {
			yield(nil, s.redisError("scan", err))
			return
		}
		for _, server := range servers {
			if !s.scan(ctx, server, yield) {
				return
			}
		}
	}
}

// servers returns what has to be scanned: each primary of a Cluster.
func (s *RedisStore) servers(ctx context.Context) ([]redis.Cmdable, error) {
	if s.cluster == nil {
		return []redis.Cmdable{s.client}, nil
	}
	var mu sync.Mutex
	return within(ctx, s, func() (servers []redis.Cmdable, err error) {
		err = s.cluster.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			servers = append(servers, c)
			return nil
		})
		return servers, err
	})
}

func (s *RedisStore) scan(ctx context.Context, server redis.Cmdable, yield func(*Record, error) bool) bool {
	match := globEscaper.Replace(s.prefix) + "*"
	var cursor uint64
	for {
		type page struct {
			keys []string
			next uint64
		}
		p, err := within(ctx, s, func() (p page, err error) {
			p.keys, p.next, err = server.Scan(ctx, cursor, match, redisScan).Result()
			return p, err
		})
		if err != nil {
			yield(nil, s.redisError("scan", err))
			return false
		}
		ids := make([]string, 0, len(p.keys))
		for _, key := range p.keys {
			if id := key[len(s.prefix):]; !strings.HasPrefix(id, redisUser) {
				ids = append(ids, id)
			}
		}
		for len(ids) > 0 {
			n := min(len(ids), redisBatch)
			recs, err := s.records(ctx, ids[:n])
			if err != nil {
				yield(nil, s.redisError("scan", err))
				return false
			}
			for _, rec := range recs {
				if !yield(rec, nil) {
					return false
				}
			}
			ids = ids[n:]
		}
		if cursor = p.next; cursor == 0 {
			return true
		}
	}
}

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)
