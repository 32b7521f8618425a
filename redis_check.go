package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Check tells what an operator should know about the server and the client,
// one finding a line, each with its mend: eviction, persistence, replicas,
// TLS, versions, timeouts. It is nil if all is well. Open runs it as soon as
// the server answers, and logs what it finds. On a Cluster it asks every
// primary. What the server does not tell is no finding.
func (s *RedisStore) Check(ctx context.Context) error {
	findings, err := s.check(ctx)
	if err != nil {
		return s.redisError("check", err)
	}
	return errors.Join(findings...)
}

// errNotRedis: whatever answers, sessions must not be kept there.
var errNotRedis = errors.New("the server is not Redis")

// check returns the findings, or an error if the server does not answer or is
// not Redis.
func (s *RedisStore) check(ctx context.Context) ([]error, error) {
	f := &findings{}
	s.checkClient(f)
	check := func(ctx context.Context, node *redis.Client) error { return s.checkServer(ctx, node, f) }
	// First who it is: where a stranger answers, the rest may take for ever, and
	// Ignite answers nobody for the second in which go-redis' HELLO keeps it busy.
	if err := s.stranger(ctx); err != nil {
		return nil, err
	}
	if err := s.ask(ctx, check); err != nil {
		return nil, err
	}
	return f.sorted(), nil
}

// ask checks every primary.
func (s *RedisStore) ask(ctx context.Context, check func(context.Context, *redis.Client) error) error {
	_, err := within(ctx, s, func() (any, error) {
		switch c := s.client.(type) {
		case *redis.Client:
			return nil, check(ctx, c)
		case *redis.ClusterClient:
			return nil, c.ForEachMaster(ctx, check)
		case *redis.Ring:
			return nil, c.ForEachShard(ctx, check)
		}
		return nil, s.client.Ping(ctx).Err()
	})
	return err
}

// findings are collected from several servers at once.
type findings struct {
	mu  sync.Mutex
	all []string
}

func (f *findings) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, fmt.Sprintf("session: redis: "+format, args...))
}

func (f *findings) sorted() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.all)
	var errs []error
	for _, text := range slices.Compact(f.all) {
		errs = append(errs, errors.New(text))
	}
	return errs
}

// checkClient looks at a client that was passed in.
func (s *RedisStore) checkClient(f *findings) {
	read := time.Duration(0)
	switch c := s.client.(type) {
	case *redis.Client:
		read = c.Options().ReadTimeout
	case *redis.ClusterClient:
		o := c.Options()
		read = o.ReadTimeout
		if o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
			f.add("the client reads from replicas, which still have sessions that have ended; switch off ReadOnly, RouteByLatency and RouteRandomly")
		}
		if o.ClusterStateReloadInterval > 10*time.Second {
			f.add("the client looks for a new primary every %v only; set ClusterStateReloadInterval to a second", o.ClusterStateReloadInterval)
		}
	case *redis.Ring:
		f.add("a Ring moves sessions to servers that do not have them when one fails; use a Cluster")
	}
	if !s.deadlines {
		f.add("the client has no ContextTimeoutEnabled: calls return at their deadline, but go on in the background until the client's own timeouts end them; set it")
	}
	if s.opts.Replicas > 0 && read > 0 && read <= s.opts.ReplicaTimeout {
		f.add("the client's ReadTimeout (%v) is not longer than ReplicaTimeout (%v), so a slow replica looks like a dead server; raise it", read, s.opts.ReplicaTimeout)
	}
}

// checkServer looks at one server.
func (s *RedisStore) checkServer(ctx context.Context, node *redis.Client, f *findings) error {
	where := node.Options().Addr
	hello, err := redisHello(ctx, node)
	if err != nil {
		return err
	}
	switch server := strings.ToLower(hello["server"]); {
	case server == "miniredis":
		return nil // for tests; it tells nothing about itself
	case strangers[server] != nil:
		return strangers[server]
	case hello["dfly_version"] != "":
		f.add("%s: the server is Dragonfly, with which this library is not tested; use Redis or Valkey", where)
	case server != "" && server != "redis" && server != "valkey":
		f.add("%s: the server calls itself %q; this library is tested with Redis and written for Redis and Valkey", where, server)
	}
	if s.remote(ctx, node) {
		f.add("%s: the connection is not encrypted, so the network can read sessions and the password; use rediss:// (TLS)", where)
	}
	text, err := node.Info(ctx).Result()
	var answer redis.Error
	switch {
	case errors.As(err, &answer):
		f.add("%s: INFO is refused (%v), so little could be checked; allow it: ACL SETUSER … +info", where, err)
		return nil
	case err != nil:
		return err
	}
	info := parseRedisInfo(text)
	checkVersion(info, where, f)
	s.checkReplication(info, where, f)
	checkEviction(info, where, f)
	s.checkPersistence(ctx, node, info, where, f)
	return nil
}

func checkVersion(info map[string]string, where string, f *findings) {
	if strings.Contains(info["executable"], "keydb") {
		f.add("%s: the server is KeyDB, with which this library is not tested, and whose active replicas lose updates; use Redis or Valkey", where)
	}
	version := info["redis_version"]
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	if err == nil && (a < 6 || a == 6 && b < 2) {
		f.add("%s: the server is Redis %s; ZADD GT needs 6.2 or newer", where, version)
	}
}

func (s *RedisStore) checkReplication(info map[string]string, where string, f *findings) {
	if info["role"] == "slave" {
		f.add("%s: the server is a read-only replica, so nothing can be saved; connect to the primary, or through redis+sentinel://", where)
		return
	}
	n, err := strconv.Atoi(info["connected_slaves"])
	switch {
	case err != nil:
	case n < s.opts.Replicas:
		f.add("%s: %d replicas are connected, and Replicas is %d, so every save fails; add replicas or lower Replicas", where, n, s.opts.Replicas)
	case n == 0:
		f.add("%s: no replica is connected, so the sessions are as safe as this one machine; add one, with Sentinel or a Cluster", where)
	}
}

func checkEviction(info map[string]string, where string, f *findings) {
	policy := info["maxmemory_policy"]
	if limit, _ := strconv.ParseInt(info["maxmemory"], 10, 64); limit <= 0 || policy == "" || policy == "noeviction" {
		return
	}
	// Every session has a TTL, so the volatile policies evict them as well.
	f.add("%s: maxmemory-policy is %s, so a full server signs users out, and may forget who has which session; set noeviction", where, policy)
}

// checkPersistence finds a server that keeps nothing on disk. INFO tells about
// the AOF only; CONFIG, which managed services forbid, tells the rest.
func (s *RedisStore) checkPersistence(ctx context.Context, node *redis.Client, info map[string]string, where string, f *findings) {
	if info["aof_enabled"] != "0" {
		return
	}
	save, err := node.ConfigGet(ctx, "save").Result()
	points, known := save["save"]
	if err != nil || !known {
		// Never in an hour, although there was something to save.
		up, _ := strconv.Atoi(info["uptime_in_seconds"])
		changes := info["rdb_changes_since_last_save"]
		if up < 3600 || info["rdb_last_bgsave_time_sec"] != "-1" || changes == "0" || changes == "" {
			return
		}
	}
	if points != "" {
		return
	}
	// redis.io/docs, management/replication, "Safety of replication when
	// master has persistence turned off".
	f.add("%s: persistence is off (no AOF, no snapshots), so a restart ends every session, and a primary that restarts empty empties its replicas; set appendonly yes", where)
}

// remote tells whether the connection to node is in clear and leaves this
// machine.
func (s *RedisStore) remote(ctx context.Context, node *redis.Client) bool {
	o := node.Options()
	if o.TLSConfig != nil || o.Network == "unix" {
		return false
	}
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		// A client of Sentinel, which only tells where it is connected.
		c, err := node.ClientInfo(ctx).Result()
		if err != nil {
			return false
		}
		if host, _, err = net.SplitHostPort(c.LAddr); err != nil {
			return false
		}
	}
	ip := net.ParseIP(host)
	return host != "localhost" && host != "" && (ip == nil || !ip.IsLoopback())
}

// redisHello asks who answers. A server before Redis 6 does not know.
func redisHello(ctx context.Context, node *redis.Client) (map[string]string, error) {
	v, err := node.Do(ctx, "hello").Result()
	var answer redis.Error
	switch {
	case errors.As(err, &answer) && !redis.IsAuthError(err) && !redis.IsLoadingError(err):
		return nil, nil
	case err != nil && (strings.Contains(err.Error(), "redis: can't parse") || strings.Contains(err.Error(), "redis: invalid reply")):
		return nil, fmt.Errorf("%w, for it does not speak its protocol; check host and port", errNotRedis)
	case err != nil:
		return nil, err
	}
	hello := map[string]string{}
	switch v := v.(type) {
	case map[any]any:
		for name, value := range v {
			hello[fmt.Sprint(name)] = fmt.Sprint(value)
		}
	case []any:
		for i := 0; i+1 < len(v); i += 2 {
			hello[fmt.Sprint(v[i])] = fmt.Sprint(v[i+1])
		}
	}
	return hello, nil
}

func parseRedisInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}
