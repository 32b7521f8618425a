package memcachedstore

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

// Check tells what an operator should know about the servers, one finding a
// line, each with its mend: CAS, the largest item, evictions, the clock, TLS,
// and whether replicated servers replicate. It is nil if all is well. Open runs
// it as soon as the servers answer, and logs what it finds. What a server does
// not tell is no finding. It needs every server.
//
// A server that takes smaller items than MaxItem lowers it.
func (s *Store) Check(ctx context.Context) error {
	found, err := s.check(ctx)
	if err != nil {
		return failed("check", err)
	}
	return errors.Join(found...)
}

// errUnfit: whatever answers, sessions must not be kept there.
var errUnfit = errors.New("the server is not fit for sessions")

func (s *Store) check(ctx context.Context) ([]error, error) {
	f := &findings{}
	errs := make([]error, len(s.servers))
	var wg sync.WaitGroup
	for i, server := range s.servers {
		wg.Go(func() {
			if err := s.checkServer(ctx, server, f); err != nil {
				errs[i] = fmt.Errorf("%s: %w", server.addr, err)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if final(err) { // before one that does not answer yet
			return nil, err
		}
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	if s.replicated {
		if err := s.checkReplication(ctx); err != nil {
			return nil, err
		}
	}
	slices.Sort(f.all)
	found := make([]error, len(f.all))
	for i, text := range f.all {
		found[i] = errors.New(text)
	}
	return found, nil
}

// findings are collected from several servers at once.
type findings struct {
	mu  sync.Mutex
	all []string
}

func (f *findings) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, fmt.Sprintf("session: memcached: "+format, args...))
}

func (s *Store) checkServer(ctx context.Context, server *server, f *findings) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c, err := s.dialer.dial(ctx, "tcp", server.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	k := newConsole(c)
	version, err := k.ask("version", false)
	switch {
	case err != nil:
		return err
	case strings.Contains(version[""], "unauthenticated"), strings.HasPrefix(version[""], "CLIENT_ERROR"):
		return fmt.Errorf("%w: it asks for a user name and a password; give username and password=env:NAME", errUnfit)
	case !strings.HasPrefix(version[""], "VERSION "):
		return fmt.Errorf("%w: it does not speak memcached's text protocol; check host and port", errUnfit)
	}
	if s.dialer.tls == nil && remote(c) {
		f.add("%s: the connection is not encrypted, so the network can read sessions and the password; use TLS (memcacheds://, infinispans://)", server.addr)
	}
	stats, err := k.ask("stats", true)
	if err != nil {
		return err
	}
	settings, err := k.ask("stats settings", true) // Infinispan has none
	if err != nil {
		return err
	}
	return s.judge(server.addr, stats, settings, f)
}

// judge looks at what a server tells about itself.
func (s *Store) judge(where string, stats, settings map[string]string, f *findings) error {
	if settings["cas_enabled"] == "no" {
		return fmt.Errorf("%w: %w", errUnfit, errNoCAS)
	}
	largest, err := strconv.ParseInt(settings["item_size_max"], 10, 64)
	if most := largest - itemHeader; err == nil && most < s.limit.Load() {
		f.add("%s: it takes items of %d bytes at most, so larger records are refused; start it with a larger -I", where, largest)
		for old := s.limit.Load(); most < old && !s.limit.CompareAndSwap(old, max(most, 1)); old = s.limit.Load() {
		}
	}
	if n, _ := strconv.ParseInt(stats["evictions"], 10, 64); n > 0 {
		f.add("%s: its memory is full and it has evicted %d items, so users were signed out; start it with a larger -m", where, n)
	}
	if settings["evictions"] == "off" {
		f.add("%s: it evicts nothing (-M), so once its memory is full nobody can sign in and no session can grow; watch its memory, or start it without -M", where)
	}
	if n, _ := strconv.ParseInt(stats["rejected_connections"], 10, 64); n > 0 {
		f.add("%s: it has refused %d connections; start it with a larger -c, or lower PoolSize", where, n)
	}
	if at, err := strconv.ParseInt(stats["time"], 10, 64); err == nil {
		if ahead := time.Unix(at, 0).Sub(s.now()).Round(time.Second); ahead.Abs() > maxSkew {
			f.add("%s: its clock differs from this one by %v, and sessions of more than 30 days end by its clock; synchronise them", where, ahead)
		}
	}
	return nil
}

// maxSkew is how far a server's clock may be off without a finding.
const maxSkew = 5 * time.Second

// checkReplication writes an item through one member and reads it through the
// others.
func (s *Store) checkReplication(ctx context.Context) error {
	first := s.servers[0]
	it := &memcache.Item{Key: s.prefix + "check:" + rand.Text(), Value: []byte("x"), Expiration: 60}
	if _, err := call(ctx, first, func(c *memcache.Client) (struct{}, error) { return struct{}{}, c.Add(it) }); err != nil {
		return err
	}
	found := s.findReplica(ctx, it.Key)
	_, err := call(ctx, first, func(c *memcache.Client) (struct{}, error) { return struct{}{}, c.Delete(it.Key) })
	if found != nil {
		return found
	}
	return err
}

func (s *Store) findReplica(ctx context.Context, key string) error {
	for _, other := range s.servers[1:] {
		got, err := call(ctx, other, func(c *memcache.Client) (*memcache.Item, error) { return c.Get(key) })
		switch {
		case errors.Is(err, memcache.ErrCacheMiss):
			return fmt.Errorf("%w: %s does not have what %s was given, so they do not replicate; use memcached:// (Replicated false)", errUnfit, other.addr, s.servers[0].addr)
		case err != nil:
			return err
		case got.CasID == 0:
			return fmt.Errorf("%w: %w", errUnfit, errNoCAS)
		}
	}
	return nil
}

// console asks a server about itself, which the client cannot.
type console struct {
	net.Conn
	r *bufio.Reader
}

func newConsole(c net.Conn) *console { return &console{c, bufio.NewReader(c)} }

// ask returns the statistics that a command answers with, and a line that is
// none under "".
func (k *console) ask(command string, many bool) (map[string]string, error) {
	if _, err := fmt.Fprintf(k, "%s\r\n", command); err != nil {
		return nil, err
	}
	answer := map[string]string{}
	for range 1000 {
		line, err := k.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) || errors.Is(err, errUnasked) || errors.Is(err, errUnreadable) {
			return map[string]string{"": "?"}, nil // not the protocol
		}
		if err != nil {
			return nil, err
		}
		text := strings.TrimSpace(string(line))
		rest, stat := strings.CutPrefix(text, "STAT ")
		switch name, value, _ := strings.Cut(rest, " "); {
		case many && stat:
			answer[name] = value
			continue
		case !many || text != "END":
			answer[""] = text
		}
		return answer, nil
	}
	return nil, errors.New("the answer to " + command + " does not end")
}

// remote tells whether a connection leaves this machine.
func remote(c net.Conn) bool {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && !a.IP.IsLoopback()
}
