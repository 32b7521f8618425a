package hazelcaststore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/distsession/session/hazelcaststore/internal/wire"
)

// Check connects to every member and tells what makes the cache unfit for
// sessions, with the mend: see the package's Configuration. It is nil if all is
// well. Open runs it as soon as the members answer.
func (s *Store) Check(ctx context.Context) error {
	if _, err := s.check(ctx); err != nil {
		return fmt.Errorf("session: hazelcast: check: %w", err)
	}
	return nil
}

// errUnfit: whatever answers, sessions must not be kept there.
var errUnfit = errors.New("the cluster is not fit for sessions")

// final tells whether no further check will find anything better.
func final(err error) bool {
	return errors.Is(err, errUnfit)
}

// check asks every member; what is final about one comes before one that does
// not answer yet. It finds nothing that is no error.
func (s *Store) check(ctx context.Context) (found []error, err error) {
	return nil, s.checkMembers(ctx)
}

func (s *Store) checkMembers(ctx context.Context) error {
	var failure error
	var conns []*wire.Conn
	for _, m := range s.cluster.members {
		conn, err := s.checkMember(ctx, m)
		switch {
		case err == nil:
			conns = append(conns, conn)
		case failure == nil || final(err) && !final(failure):
			failure = fmt.Errorf("%s: %w", m.addr, err)
		}
	}
	if final(failure) {
		return failure
	}
	for i, conn := range conns {
		if i > 0 && conn.Cluster() != conns[0].Cluster() {
			return fmt.Errorf("%w: the members belong to different clusters, or have not met yet; name those of one cluster", errUnfit)
		}
	}
	if len(conns) > 0 {
		if err := s.probe(ctx, conns[0]); err != nil {
			return err
		}
	}
	return failure
}

func (s *Store) checkMember(ctx context.Context, m *member) (*wire.Conn, error) {
	conn, err := m.connection(ctx)
	var config wire.Config
	if err == nil {
		config, err = conn.CacheConfig(ctx)
	}
	cache := m.opts.Cache
	if refused := (*wire.Error)(nil); errors.Is(err, wire.ErrNoCache) || errors.As(err, &refused) && refused.Code == wire.CodeNoCache {
		return nil, fmt.Errorf("%w: no cache %q is declared there; declare it (hazelcast.yaml: cache: %s: backup-count: 1, eviction: size: %d, max-size-policy: ENTRY_COUNT) with javax.cache:cache-api on the class path, or name another in the URL's path",
			errUnfit, cache, cache, math.MaxInt32)
	}
	switch {
	case errors.Is(err, wire.ErrLogin):
		return nil, fmt.Errorf("%w: %w; check cluster=NAME, and username and password=env:NAME, of which the open source edition takes neither", errUnfit, err)
	case errors.Is(err, wire.ErrMalformed):
		return nil, fmt.Errorf("%w: it does not speak Hazelcast's open binary protocol; check host and port, and whether it wants TLS (hazelcasts://): %w", errUnfit, err)
	case err != nil:
		return nil, err
	}
	return conn, s.judge(cache, config)
}

// judge looks at a cache's configuration.
func (s *Store) judge(cache string, c wire.Config) error {
	switch {
	case c.Backups < 1 && c.AsyncBackups > 0:
		return fmt.Errorf("%w: cache %q has only asynchronous backups, so the loss of a member loses what was acknowledged; give it backup-count: 1", errUnfit, cache)
	case c.Backups < 1:
		return fmt.Errorf("%w: cache %q has no backup, so the loss of a member ends sessions; give it backup-count: 1", errUnfit, cache)
	case c.Format == "OBJECT":
		return fmt.Errorf("%w: cache %q keeps objects, which do not compare as bytes do; give it in-memory-format: BINARY", errUnfit, cache)
	case c.Expiry != "Eternal" && c.Expiry != "Created" && c.Expiry != "Modified":
		return fmt.Errorf("%w: cache %q has an expiry policy by which a read changes how long an entry lives (%s); take the expiry-policy-factory out of its configuration", errUnfit, cache, cmp.Or(c.Expiry, "unknown"))
	case !s.eviction && (c.EvictionUnit != "ENTRY_COUNT" || c.EvictionSize < math.MaxInt32):
		return fmt.Errorf("%w: cache %q evicts entries at %d (%s), and so ends live sessions; give it eviction: size: %d, max-size-policy: ENTRY_COUNT, or accept it with insecure_eviction=true",
			errUnfit, cache, c.EvictionSize, c.EvictionUnit, math.MaxInt32)
	}
	return nil
}

// probe makes one entry and replaces it: a member may refuse the expiry policy.
func (s *Store) probe(ctx context.Context, conn *wire.Conn) error {
	key := s.Key("check " + rand.Text())
	old, next := []byte("1"), []byte("2")
	_, err := conn.PutIfAbsent(ctx, key, old, probeFor)
	if err == nil {
		var done bool
		done, err = conn.Replace(ctx, key, old, next, probeFor)
		if err == nil && !done {
			return fmt.Errorf("%w: an entry that was just made is not there; take away what else writes to or clears the cache, or name another in the URL's path", errUnfit)
		}
	}
	if err == nil {
		_, err = conn.Remove(ctx, key, nil)
	}
	if refused := (*wire.Error)(nil); errors.As(err, &refused) && refused.Class == "HazelcastSerializationException" {
		return fmt.Errorf("%w: the expiry policy is refused; allow javax.cache.expiry.* and java.util.concurrent.TimeUnit in the java-serialization-filter: %w", errUnfit, err)
	}
	return err
}

// probeFor is how long the probe's entry lives if nobody removes it.
const probeFor = 10 * time.Second
