package ignitestore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/distsession/session/ignitestore/internal/wire"
)

// Check tells what an operator should know about the cluster, one finding a
// line, each with its mend: the cache's configuration and TLS. It is nil if all
// is well, and an error if sessions must not be kept there. Open runs it as soon
// as the members answer, and logs what it finds. It needs every member, and
// makes the cache if it is not there.
func (s *Store) Check(ctx context.Context) error {
	found, err := s.check(ctx)
	if err != nil {
		return failed("check", err)
	}
	return errors.Join(found...)
}

// errUnfit: whatever answers, sessions must not be kept there.
var errUnfit = errors.New("the cluster is not fit for sessions")

// fit tells whether a cache keeps what it acknowledges when a member dies.
func (s *Store) fit(c wire.Config) error {
	switch {
	case !c.Replicated && c.Backups < 1:
		return fmt.Errorf("%w: the cache %s has no backups, so the death of one member loses sessions; set backups to 1 (CacheConfiguration.setBackups), or destroy the cache and let this store make it", errUnfit, s.cache)
	case !c.FullSync:
		return fmt.Errorf("%w: the cache %s acknowledges a write before all copies have it, so the death of one member loses what was acknowledged; set writeSynchronizationMode to FULL_SYNC", errUnfit, s.cache)
	case c.ReadsExpire:
		return fmt.Errorf("%w: the cache %s has an expiry policy by which a read moves an entry's end; take its expiryPolicyFactory away", errUnfit, s.cache)
	}
	return nil
}

// check returns the findings, or an error if a member does not answer or
// sessions must not be kept there.
func (s *Store) check(ctx context.Context) ([]error, error) {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf("session: ignite: "+format, args...)) }
	var failure error
	for i, m := range s.members {
		conf, local, err := s.checkMember(ctx, m)
		switch {
		case final(err):
			return nil, err
		case err != nil:
			failure = errors.Join(failure, err) // another may be final
			continue
		}
		if !local && m.opts.TLS == nil {
			add("%s: the connection is not encrypted, so the network can read sessions and the password; use TLS (ignites://)", m.addr)
		}
		if i > 0 {
			continue // the cache is the same
		}
		if conf.ReadFromBackup {
			add("the cache %s answers from backups, which may show a write before it is acknowledged and then not show it; set readFromBackup to false", s.cache)
		}
		if !conf.EagerTTL {
			add("the cache %s keeps what has expired until somebody asks for it, so its memory fills; set eagerTtl to true", s.cache)
		}
		if !conf.Atomic {
			add("the cache %s is TRANSACTIONAL, with which this library is not tested; ATOMIC is enough", s.cache)
		}
	}
	if failure != nil {
		return nil, failure
	}
	if err := s.checkCluster(ctx); err != nil {
		return nil, err
	}
	found := make([]error, len(all))
	for i, text := range all {
		found[i] = errors.New(text)
	}
	return found, nil
}

func (s *Store) checkMember(ctx context.Context, m *member) (conf wire.Config, local bool, err error) {
	conf, err = call(ctx, s, m, func(ctx context.Context, c *wire.Conn) (wire.Config, error) {
		local = c.Local()
		return s.settle(ctx, c)
	})
	var answer *wire.Error
	switch {
	case errors.As(err, &answer) && answer.Status == wire.StatusAuth && m.opts.User == "":
		err = fmt.Errorf("%w: it asks for a user name and a password; give username and password=env:NAME: %w", errUnfit, err)
	case errors.As(err, &answer) && answer.Status == wire.StatusAuth:
		err = fmt.Errorf("%w: it refuses the user name or the password; check username and password=env:NAME: %w", errUnfit, err)
	case errors.Is(err, wire.ErrVersion):
		err = fmt.Errorf("%w: %w; run Ignite 2.8 or later", errUnfit, err)
	case errors.Is(err, wire.ErrNonsense):
		err = fmt.Errorf("%w: it does not speak the thin-client protocol of Ignite 2; check host and port, and whether it wants TLS (ignites://): %w", errUnfit, err)
	}
	return conf, local, err
}

// checkCluster writes an entry through one member and reads it through the
// others.
func (s *Store) checkCluster(ctx context.Context) error {
	id, key := wire.CacheID(s.cache), s.prefix+"check:"+rand.Text()
	first := s.members[0]
	_, err := call(ctx, s, first, func(ctx context.Context, c *wire.Conn) (bool, error) {
		return c.PutIfAbsent(ctx, id, key, []byte{}, time.Minute)
	})
	if err != nil {
		return err
	}
	for _, m := range s.members[1:] {
		there, err := call(ctx, s, m, func(ctx context.Context, c *wire.Conn) (bool, error) {
			value, err := c.Get(ctx, id, key)
			return value != nil, err
		})
		if err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("%w: %s does not have what %s was given, so they are members of different clusters; name the members of one", errUnfit, m.addr, first.addr)
		}
	}
	_, err = call(ctx, s, first, func(ctx context.Context, c *wire.Conn) (bool, error) { return c.Remove(ctx, id, key) })
	return err
}

// firstCheck is how long Open takes at most: to make a cache takes a part of a
// second.
const firstCheck = 3 * time.Second

// final tells whether no further check will find anything better.
func final(err error) bool { return errors.Is(err, errUnfit) }
