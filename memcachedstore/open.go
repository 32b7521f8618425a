package memcachedstore

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/hosts"
	"github.com/distsession/session/internal/later"
)

func init() {
	for scheme := range ports {
		session.Register(scheme, open)
	}
}

// ports are the schemes and their usual ports. An s at the end is TLS.
var ports = map[string]string{
	"memcached": "11211", "memcacheds": "11211",
	"infinispan": "11221", "infinispans": "11221",
}

const (
	firstCheck = time.Second // that Open takes at most
	nextCheck  = time.Second // at first, then ever longer
)

func open(ctx context.Context, u *url.URL) (session.Store, error) {
	servers, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	s, err := New(servers, opts)
	if err != nil {
		return nil, err
	}
	if err := s.firstCheck(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// parseURL reads memcached://[user:password@]host[:port][,host[:port]…].
func parseURL(u *url.URL) ([]string, *Options, error) {
	scheme := strings.ToLower(u.Scheme)
	p := session.NewParams(u)
	opts := &Options{
		Prefix:     p.String("prefix", ""),
		Replicated: strings.HasPrefix(scheme, "infinispan"),
		Timeout:    p.Duration("timeout", 0),
		PoolSize:   p.Int("pool_size", 0),
		MaxItem:    p.Int("max_item", 0),
	}
	if strings.HasSuffix(scheme, "s") {
		opts.TLS = p.TLS()
	}
	at, err := hosts.Read(u, p, "memcached", ports[scheme])
	switch {
	case err != nil:
		return nil, nil, err
	case at.Path != "":
		return nil, nil, configError("there are no databases; end the URL after the hosts and choose a prefix: ?prefix=app1:")
	}
	opts.Username, opts.Password = at.Username, at.Password
	return at.Addrs, opts, nil
}

// firstCheck checks the servers if they answer, and otherwise goes on trying in
// the background, until Close. It fails if sessions must not be kept there.
func (s *Store) firstCheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstCheck)
	defer cancel()
	found, err := s.check(ctx)
	switch {
	case final(err):
		return configError("%w", err)
	case err != nil:
		slog.Warn("session: memcached does not answer yet", "error", err)
		s.checkLater()
		return nil
	}
	logFindings(found)
	return nil
}

func logFindings(found []error) {
	for _, err := range found {
		slog.Warn(err.Error())
	}
}

// final tells whether no further check will find anything better.
func final(err error) bool {
	return errors.Is(err, errUnfit) || errors.Is(err, errAuth)
}

// checkLater checks the servers as soon as they answer.
func (s *Store) checkLater() {
	s.stop = later.Until(nextCheck, func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, firstCheck)
		defer cancel()
		found, err := s.check(ctx)
		switch {
		case final(err):
			slog.Error("session: memcached: " + err.Error())
			return true
		case err == nil:
			logFindings(found)
		}
		return err == nil
	})
}
