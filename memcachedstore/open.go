package memcachedstore

import (
	"context"
	"errors"
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

// firstCheck is how long Open takes at most.
const firstCheck = time.Second

func open(ctx context.Context, u *url.URL) (session.Store, error) {
	servers, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	s, err := New(servers, opts)
	if err != nil {
		return nil, err
	}
	if s.stop, err = later.Check(ctx, "memcached", firstCheck, s.check, final); err != nil {
		return nil, errors.Join(configError("%w", err), s.Close())
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

// final tells whether no further check will find anything better.
func final(err error) bool {
	return errors.Is(err, errUnfit) || errors.Is(err, errAuth)
}
