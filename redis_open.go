package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session/internal/later"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

func init() {
	for _, scheme := range []string{"redis", "redis+cluster", "redis+sentinel"} {
		Register(scheme, openRedis)
		Register(strings.Replace(scheme, "redis", "rediss", 1), openRedis)
	}
}

const (
	redisPort    = "6379"
	sentinelPort = "26379"

	redisTimeout    = time.Second // to connect, to write, to read, for a free connection
	redisFirstCheck = time.Second // that Open takes at most
	redisNextCheck  = time.Second // at first, then ever longer
)

// redisConfig is what a URL says.
type redisConfig struct {
	kind    string // "", "cluster" or "sentinel"
	options redis.UniversalOptions
	store   RedisOptions
}

func openRedis(ctx context.Context, u *url.URL) (Store, error) {
	cfg, err := parseRedisURL(u)
	if err != nil {
		return nil, err
	}
	s := NewRedisStore(cfg.client(), &cfg.store)
	s.own = true
	for _, secret := range []string{cfg.options.Password, cfg.options.SentinelPassword} {
		if secret != "" {
			s.secrets = append(s.secrets, secret, "…")
		}
	}
	if err := s.firstCheck(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// parseRedisURL reads
//
//	redis://[user:password@]host[:port][/db]
//	redis+cluster://[user:password@]host[:port][,host[:port]…]
//	redis+sentinel://[user:password@]host[:port][,host[:port]…]/master
//
// and the same with rediss for TLS. Its errors repeat nothing of the URL but
// the names and values of parameters.
func parseRedisURL(u *url.URL) (*redisConfig, error) {
	family, kind, _ := strings.Cut(strings.ToLower(u.Scheme), "+")
	// In a password that is not escaped, "/", "?" and "#" end the host, and
	// the rest, up to the "@", lands in what follows: it must not be repeated.
	if u.Opaque != "" || u.Fragment != "" || strings.Contains(u.EscapedPath()+u.RawQuery, "@") {
		return nil, configError("%s: the URL cannot be read; write it as %s://host:port/…, and escape special characters (@ is %%40, / is %%2F, ? is %%3F, # is %%23)", u.Scheme, u.Scheme)
	}
	cfg := &redisConfig{kind: kind}
	p := NewParams(u)
	o := &cfg.options
	cfg.timeouts(p)
	cfg.store.Prefix = p.String("prefix", redisPrefix)
	cfg.store.Replicas = p.Int("replicas", 0)
	cfg.store.ReplicaTimeout = p.Duration("replica_timeout", redisReplicaTimeout)
	o.PoolSize = p.Int("pool_size", 0)
	o.Username, o.Password = p.String("username", ""), string(p.Secret("password"))
	if kind != "" {
		o.Addrs = p.All("addr")
	}
	if kind == "sentinel" {
		o.SentinelUsername, o.SentinelPassword = p.String("sentinel_username", ""), string(p.Secret("sentinel_password"))
	}
	if kind != "cluster" {
		o.DB = p.Int("db", 0)
	}
	if family == "rediss" {
		o.TLSConfig = p.TLS()
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	if err := cfg.place(u); err != nil {
		return nil, err
	}
	return cfg, cfg.credentials(u)
}

// timeouts suit a request: go-redis itself would wait 5 seconds, four times.
func (cfg *redisConfig) timeouts(p *Params) {
	o := &cfg.options
	o.ContextTimeoutEnabled = true
	o.DialTimeout = p.Duration("dial_timeout", redisTimeout)
	o.ReadTimeout = p.Duration("read_timeout", redisTimeout)
	if o.DialTimeout == 0 || o.ReadTimeout == 0 {
		p.fail("%s: dial_timeout and read_timeout are longer than 0, such as 500ms", p.scheme)
	}
	o.WriteTimeout = o.ReadTimeout
	o.PoolTimeout = redisTimeout
	o.DialerRetries = 1
	o.MaxRetries = 2
	o.MaxRedirects = 8
	o.MinRetryBackoff, o.MaxRetryBackoff = 10*time.Millisecond, 200*time.Millisecond
	o.PipelinePoolSize = -1 // one pool, of the size that was asked for
	o.DisableIdentity = true
	// A server that does not know them may never answer (Infinispan 16).
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// place reads host and path.
func (cfg *redisConfig) place(u *url.URL) error {
	o := &cfg.options
	port := redisPort
	if cfg.kind == "sentinel" {
		port = sentinelPort
	}
	hosts := o.Addrs
	o.Addrs = nil
	if u.Host != "" {
		hosts = append(strings.Split(u.Host, ","), hosts...)
	}
	for _, host := range hosts {
		addr, ok := redisAddr(host, port)
		if !ok {
			return configError("%s: a host cannot be read; write host:port, with commas between several, and an IPv6 address as ?addr=[::1]:%s", u.Scheme, port)
		}
		o.Addrs = append(o.Addrs, addr)
	}
	switch path := strings.Trim(u.Path, "/"); {
	case len(hosts) == 0:
		return configError("%s: the URL names no host; write %s://localhost:%s", u.Scheme, u.Scheme, port)
	case cfg.kind == "sentinel" && path == "":
		return configError("%s: the URL does not name the primary as the sentinels know it; write %s://host:%s/mymaster", u.Scheme, u.Scheme, port)
	case cfg.kind == "sentinel":
		o.MasterName = path
	case cfg.kind == "cluster" && path != "" && path != "0":
		return configError("%s: a Cluster has no databases; end the URL after the hosts", u.Scheme)
	case cfg.kind == "" && len(hosts) > 1:
		return configError("%s: this is one server, and the URL names %d; write redis+cluster:// or redis+sentinel://", u.Scheme, len(hosts))
	case cfg.kind == "" && path != "":
		db, err := strconv.Atoi(path)
		if err != nil || db < 0 || o.DB != 0 && o.DB != db {
			return configError("%s: the path is the number of the database; write %s://host:%s/0", u.Scheme, u.Scheme, port)
		}
		o.DB = db
	}
	if cfg.store.Replicas > 0 && cfg.store.ReplicaTimeout >= o.ReadTimeout {
		return configError("%s: replica_timeout (%v) must be shorter than read_timeout (%v)", u.Scheme, cfg.store.ReplicaTimeout, o.ReadTimeout)
	}
	return nil
}

// redisAddr returns host:port for a host with or without port, IPv6 in
// brackets.
func redisAddr(host, port string) (string, bool) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host += ":" + port
	}
	name, number, err := net.SplitHostPort(host)
	n, portErr := strconv.ParseUint(number, 10, 16)
	if err != nil || portErr != nil || n == 0 || name == "" || strings.ContainsAny(name, "/ @[]") {
		return "", false
	}
	return net.JoinHostPort(name, number), true
}

// credentials come from the URL or, better, from parameters that name them.
func (cfg *redisConfig) credentials(u *url.URL) error {
	o := &cfg.options
	if u.User != nil {
		if o.Username != "" || o.Password != "" {
			return configError("%s: user or password stand both before the host and in the parameters; keep the parameters", u.Scheme)
		}
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	if o.Username != "" && o.Password == "" || o.SentinelUsername != "" && o.SentinelPassword == "" {
		return configError("%s: there is a user name without a password; add password=env:NAME or password=file:PATH (sentinel_password for the sentinels)", u.Scheme)
	}
	return nil
}

func (cfg *redisConfig) client() redis.UniversalClient {
	switch cfg.kind {
	case "cluster":
		o := cfg.options.Cluster()
		o.MaxRetries = -1 // of one server; the redirections are the retries
		// Where no other key brings a redirection, this is how a new primary is
		// found; the default is a minute.
		o.ClusterStateReloadInterval = time.Second
		return redis.NewClusterClient(o)
	case "sentinel":
		return redis.NewFailoverClient(cfg.options.Failover())
	}
	return redis.NewClient(cfg.options.Simple())
}

// firstCheck checks the server if it answers, and otherwise goes on trying in
// the background, until Close. It fails if sessions must not be kept there.
func (s *RedisStore) firstCheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, redisFirstCheck)
	defer cancel()
	found, err := s.check(ctx)
	switch {
	case errors.Is(err, errNotRedis):
		return configError("redis: %w", err)
	case redis.IsAuthError(err):
		return configError("redis: the server refuses the user name or the password; check username and password=env:NAME: %w", s.redact(err))
	case err != nil:
		slog.Warn("session: redis does not answer yet", "error", s.redact(err))
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

// checkLater checks the server as soon as it answers.
func (s *RedisStore) checkLater() {
	s.stop = later.Until(redisNextCheck, func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, redisFirstCheck)
		defer cancel()
		found, err := s.check(ctx)
		switch {
		case errors.Is(err, errNotRedis), redis.IsAuthError(err):
			slog.Error(fmt.Sprintf("session: redis: %v", s.redact(err)))
			return true
		case err == nil:
			logFindings(found)
		}
		return err == nil
	})
}
