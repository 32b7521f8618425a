package hazelcaststore

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/hosturl"
	"github.com/distsession/session/internal/later"
)

func init() {
	session.Register("hazelcast", open)
	session.Register("hazelcasts", open) // with TLS
}

const (
	usualPort  = "5701"
	firstCheck = 2 * time.Second // that Open takes at most
	nextCheck  = time.Second     // at first, then ever longer
)

func open(ctx context.Context, u *url.URL) (session.Store, error) {
	members, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	s, err := New(members, opts)
	if err != nil {
		return nil, err
	}
	if err := s.firstCheck(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// parseURL reads hazelcast://[user:password@]host[:port][,host[:port]…][/cache].
// Its errors repeat nothing of the URL but the names and values of parameters.
func parseURL(u *url.URL) ([]string, *Options, error) {
	if err := hosturl.Whole(u); err != nil {
		return nil, nil, configError("%w", err)
	}
	p := session.NewParams(u)
	opts := &Options{
		Cluster:          p.String("cluster", ""),
		Cache:            strings.TrimPrefix(u.Path, "/"),
		Prefix:           p.String("prefix", ""),
		Timeout:          p.Duration("timeout", 0),
		KeepAlive:        p.Duration("keep_alive", 0),
		MaxValue:         p.Int("max_value", 0),
		InsecureEviction: p.Bool("insecure_eviction"),
		Username:         p.String("username", ""),
		Password:         string(p.Secret("password")),
	}
	if strings.EqualFold(u.Scheme, "hazelcasts") {
		opts.TLS = p.TLS()
	}
	addr := p.All("addr")
	if err := p.Err(); err != nil {
		return nil, nil, err
	}
	members, err := hosturl.Servers(u, addr, usualPort)
	if err != nil {
		return nil, nil, configError("%w", err)
	}
	if opts.Username, opts.Password, err = hosturl.Credentials(u, opts.Username, opts.Password); err != nil {
		return nil, nil, configError("%w", err)
	}
	return members, opts, nil
}

// firstCheck checks the members if they answer, and otherwise goes on trying in
// the background, until Close. It fails if sessions must not be kept there.
func (s *Store) firstCheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstCheck)
	defer cancel()
	err := s.check(ctx)
	switch {
	case final(err):
		return configError("%w", err)
	case err != nil:
		slog.Warn("session: hazelcast does not answer yet", "error", err)
		s.checkLater()
	}
	return nil
}

// checkLater checks the members as soon as they answer.
func (s *Store) checkLater() {
	s.stop = later.Until(nextCheck, func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, firstCheck)
		defer cancel()
		err := s.check(ctx)
		if final(err) {
			slog.Error("session: hazelcast: " + err.Error())
			return true
		}
		return err == nil
	})
}
