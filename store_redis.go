package session

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisOptions configure a RedisStore.
type RedisOptions struct {
	// Prefix begins every key. If "", it is "session:". On a Cluster a prefix
	// with a hash tag ("{app}:") puts all sessions on one server.
	Prefix string

	// Replicas is how many replicas must have acknowledged a save or a delete
	// before it returns; if fewer have after ReplicaTimeout, it is an error. If
	// 0, a failover can lose the last moment's changes, a sign-out too.
	Replicas int

	// ReplicaTimeout bounds the wait for Replicas. If 0, it is 500 milliseconds.
	// It must be shorter than the client's ReadTimeout.
	ReplicaTimeout time.Duration

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// RedisStore keeps sessions in Redis or Valkey: one server, Sentinel, or a
// Cluster. docs/redis.md tells how to run it.
//
// # Configuration
//
// Open takes redis:// and rediss:// (one server), redis+cluster:// and
// redis+sentinel:// (rediss+… for TLS), and chooses timeouts that suit a
// request. A client that is passed to NewRedisStore should have timeouts of
// about a second and, on a Cluster, ContextTimeoutEnabled and a
// ClusterStateReloadInterval of a second; Check tells what it lacks. A record
// is one string, Prefix and ID, and a user's sessions are one sorted set,
// Prefix, "user:" and a hash of the user's name.
//
// # Guarantees
//
// Every save is a compare-and-set, one script and one round trip (a sign-in on
// a Cluster takes two). A save whose answer was lost, and which the client
// sends again, finds that it was done; if others have saved the session more
// than twice since, nobody can tell, and it is an error. It has every ability of a store but
// Clean, for Redis removes what expires; Scan may yield a record twice while
// Redis rehashes, and miss one whose slot moves meanwhile.
//
// # Expiry
//
// Redis removes a record when it expires; whatever becomes of that, a record
// that has expired by this process's clock is not returned.
//
// # Failure
//
// Every call returns at its context's deadline. A server that is down, loading
// or read-only is an error, never "no session". Redis replicates after it has
// answered: a failover can lose acknowledged changes, unless Replicas is as
// many replicas as there are. WAIT is no consensus: a replica that lacks the
// change may still be promoted where others have it.
type RedisStore struct {
	client  redis.UniversalClient
	cluster *redis.ClusterClient // client, if it is one
	prefix  string
	opts    RedisOptions
	now     func() time.Time

	// deadlines tells that the client itself returns at a context's deadline.
	deadlines bool
	// apart tells that a record and its user's index may lie on different
	// servers, so that no script can write both.
	apart atomic.Bool
	nodes sync.Map // address to *redis.Client, of cluster

	// Of a store that Open made.
	own     bool     // the client is ours to close
	secrets []string // each with what stands for it in errors
	stop    func()
	close   sync.Once
}

const (
	redisPrefix         = "session:"
	redisUser           = "user:" // no ID begins so
	redisReplicaTimeout = 500 * time.Millisecond
)

// NewRedisStore returns a store that uses client; opts may be nil. The client
// is yours to close.
func NewRedisStore(client redis.UniversalClient, opts *RedisOptions) *RedisStore {
	s := &RedisStore{client: client, stop: func() {}}
	if opts != nil {
		s.opts = *opts
	}
	s.prefix = cmp.Or(s.opts.Prefix, redisPrefix)
	s.opts.ReplicaTimeout = cmp.Or(max(s.opts.ReplicaTimeout, 0), redisReplicaTimeout)
	s.now = nowOr(s.opts.Now)
	s.apart.Store(true)
	switch c := client.(type) {
	case *redis.Client:
		s.deadlines = c.Options().ContextTimeoutEnabled // not WithTimeout: its copy has no hooks
		s.apart.Store(false)
	case *redis.ClusterClient:
		s.deadlines = c.Options().ContextTimeoutEnabled
		s.cluster = c
		if s.opts.Replicas > 0 {
			c.OnNewNode(func(node *redis.Client) { s.nodes.Store(node.Options().Addr, node) })
		}
	}
	return s
}

// Close closes the client that Open made.
func (s *RedisStore) Close() error {
	var err error
	s.close.Do(func() {
		s.stop()
		if s.own {
			err = s.client.Close()
		}
	})
	return err
}

// Load implements Store.
func (s *RedisStore) Load(ctx context.Context, token string) (*Record, error) {
	if !WellFormed(token) {
		return nil, ErrNotFound
	}
	key := s.key(ID(token))
	text, err := s.get(ctx, key)
	id := key[len(s.prefix):]
	switch {
	case err == nil: // first, for the rest allocates
	case errors.Is(err, redis.Nil):
		return nil, ErrNotFound
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return nil, fmt.Errorf("%w: record %s: its key holds no string", ErrNotFound, id)
	default:
		return nil, s.redisError("load", err)
	}
	rec, _, err := DecodeRecord(id, text)
	if err != nil {
		return nil, err
	}
	if rec.Expired(s.now()) {
		return nil, ErrNotFound
	}
	return rec, nil
}

// Save implements Store.
func (s *RedisStore) Save(ctx context.Context, rec *Record) (string, error) {
	if strings.HasPrefix(rec.ID, redisUser) {
		return "", fmt.Errorf("session: redis: save: an ID must not begin with %q", redisUser)
	}
	text, err := EncodeRecord(rec, NewTrail().Next())
	if err != nil {
		return "", err
	}
	now := s.now().UnixMilli()
	ttl := milli(rec.Expires) - now
	if !rec.Deadline.IsZero() {
		ttl = min(ttl, rec.Deadline.UnixMilli()-now)
	}
	var index, score string
	if rec.User != "" && !rec.Replaced && ttl > 0 {
		index, score = s.index(rec.User), redisScore(rec)
	}
	if rec.Version > 0 && ttl > 0 {
		code, err := s.update(ctx, rec, text, now, ttl, index != "")
		if err != nil || code != redisIndex {
			return "", s.saveError(code, err)
		}
	}
	// A new record needs its index entry; of an updated one the script knows.
	entered := index == "" || rec.Version > 0
	for {
		keys := []string{s.key(rec.ID)}
		entry := score
		switch {
		case entered: // nothing more to write
		case s.apart.Load():
			if err := s.enter(ctx, index, rec.ID, score, now); err != nil {
				return "", s.redisError("save", err)
			}
			entry = ""
		default:
			keys = append(keys, index)
		}
		whole := &sent{text: text}
		code, err := s.write(ctx, saveScript, keys, whole, rec.Version, now, ttl, rec.ID, entry)
		switch {
		case err != nil && len(keys) > 1 && redis.HasErrorPrefix(err, "CROSSSLOT"):
			s.apart.Store(true) // a proxy in front of several servers
		case err == nil && code == redisIndex:
			entered = false
		default:
			return "", s.saveError(whole.judge(code), err)
		}
	}
}

// update saves the next version of a record; redisIndex if that takes
// saveScript.
func (s *RedisStore) update(ctx context.Context, rec *Record, text []byte, now, ttl int64, indexed bool) (int64, error) {
	var created, deadline, user string
	if indexed {
		rest := fieldReader{rest: string(text[recordRest:bytes.IndexByte(text, '\n')])}
		rest.next() // version
		created, deadline = rest.next(), rest.next()
		rest.next() // signed in
		rest.next() // flags
		user = rest.next()
	}
	const named = RecordTrail + writeLen
	first := &sent{text: text[:named]}
	code, err := s.write(ctx, updateScript, []string{s.key(rec.ID)}, first, text[recordRest-1:], rec.Version, now, ttl, created, deadline, user)
	if err != nil && strings.Contains(err.Error(), "WRONGTYPE") {
		return redisGone, nil // what stands there is no record
	}
	return first.judge(code), err
}

func (s *RedisStore) saveError(code int64, err error) error {
	switch {
	case err != nil:
		return s.redisError("save", err)
	case code == redisConflict:
		return ErrConflict
	case code == redisFar:
		return s.redisError("save", errOutcome)
	case code == redisGone:
		return ErrNotFound
	}
	return nil
}

// Delete implements Store.
func (s *RedisStore) Delete(ctx context.Context, id string) error {
	if strings.HasPrefix(id, redisUser) {
		return nil
	}
	var err error
	if s.opts.Replicas > 0 {
		// A retry waits too, although it finds nothing more to delete.
		_, err = s.write(ctx, deleteScript, []string{s.key(id)})
	} else {
		_, err = within(ctx, s, func() (int64, error) { return s.client.Del(ctx, s.key(id)).Result() })
	}
	return s.redisError("delete", err)
}

// Touch implements Toucher. It does not wait for Replicas.
func (s *RedisStore) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	if strings.HasPrefix(id, redisUser) {
		return ErrNotFound
	}
	code, err := s.run(ctx, touchScript, []string{s.key(id)},
		s.now().UnixMilli(), FormatMilli(seen), FormatMilli(expires))
	if err == nil && code == redisGone {
		return ErrNotFound
	}
	return s.redisError("touch", err)
}

func (s *RedisStore) key(id string) string { return s.prefix + id }

// index is the key of the set of a user's sessions. The name is hashed so that
// it cannot hold anything, or be too long, and shows no mail address.
func (s *RedisStore) index(user string) string {
	sum := sha256.Sum256([]byte(user))
	var b [tokenLen]byte
	b64.Encode(b[:], sum[:])
	return s.prefix + redisUser + string(b[:])
}

// redisScore is how long an index entry is of use: to the Deadline, for
// touches move Expires up to it.
func redisScore(rec *Record) string {
	if rec.Deadline.IsZero() {
		return strconv.Itoa(maxMilli)
	}
	return strconv.FormatInt(rec.Deadline.UnixMilli(), 10)
}

func (s *RedisStore) redisError(act string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("session: redis: %s: %w", act, s.redact(err))
}

// redact hides the passwords of Open in an error: a server that does not know
// HELLO may repeat its arguments, which hold them (Redis 5 does).
func (s *RedisStore) redact(err error) error {
	text := strings.NewReplacer(s.secrets...).Replace(err.Error())
	if text == err.Error() {
		return err
	}
	return &redactedError{text, err}
}

type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.err }

var (
	_ Store       = (*RedisStore)(nil)
	_ Lister      = (*RedisStore)(nil)
	_ UserDeleter = (*RedisStore)(nil)
	_ Toucher     = (*RedisStore)(nil)
	_ Scanner     = (*RedisStore)(nil)
	_ io.Closer   = (*RedisStore)(nil)
)
