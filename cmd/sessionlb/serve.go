package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distsession/session/sticky"
)

// balancer is the program at work.
type balancer struct {
	s        *settings
	logger   *slog.Logger
	proxy    *sticky.Proxy
	users    *http.Server
	admin    *http.Server // nil: none
	at       net.Listener
	adminAt  net.Listener
	log      io.Closer
	stopping atomic.Bool
}

// newBalancer listens, so that a port that is taken or a certificate that cannot
// be read is an error before anything is served.
func newBalancer(ctx context.Context, s *settings, logger *slog.Logger, stdout io.Writer) (_ *balancer, err error) {
	b := &balancer{s: s, logger: logger}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	s.options.Logger = logger
	s.options.Observer = observe
	if b.proxy, err = sticky.New(s.nodes, &s.options); err != nil {
		return nil, err
	}
	var handler http.Handler = b.proxy
	switch s.accessLog {
	case "":
	case "-":
		handler = accessLog(handler, stdout, s.format)
	default:
		f, err := os.OpenFile(s.accessLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, fmt.Errorf("-access-log: %w", err)
		}
		b.log = f
		handler = accessLog(handler, f, s.format)
	}
	b.users = b.server(handler)
	b.users.MaxHeaderBytes = s.maxHeader
	if s.tlsCert != "" {
		certs := &certificate{cert: s.tlsCert, key: s.tlsKey, logger: logger}
		if _, err := certs.get(nil); err != nil {
			return nil, fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
		b.users.TLSConfig = &tls.Config{GetCertificate: certs.get, MinVersion: tls.VersionTLS12}
	}
	if b.at, err = net.Listen("tcp", s.listen); err != nil {
		return nil, fmt.Errorf("-listen: %w", err)
	}
	if s.admin != "" {
		if b.adminAt, err = net.Listen("tcp", s.admin); err != nil {
			return nil, fmt.Errorf("-admin: %w", err)
		}
		b.admin = b.server(newAdmin(b.proxy, b.adminAt.Addr(), split(s.adminHosts), &b.stopping))
	}
	if s.config != "" {
		settings := string(s.file.Settings)
		if err := sticky.WatchConfig(ctx, s.config, time.Second, logger, func(c *sticky.Config) error {
			if now := string(c.Settings); now != settings {
				settings = now
				logger.Warn("the settings have changed; they take effect at the next start", "file", s.config)
			}
			return b.proxy.Apply(c)
		}); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *balancer) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(b.logger.Handler(), slog.LevelDebug),
	}
}

// serve runs until ctx ends or a listener fails, and then stops in good order.
func (b *balancer) serve(ctx context.Context) error {
	defer b.close()
	failed := make(chan error, 2)
	overTLS := b.s.tlsCert != "" // Serve gives the server a TLSConfig of its own
	go func() {
		if overTLS {
			failed <- b.users.ServeTLS(b.at, "", "")
		} else {
			failed <- b.users.Serve(b.at)
		}
	}()
	b.logger.Info("listening", "address", b.at.Addr().String(), "tls", overTLS)
	if b.admin != nil {
		go func() { failed <- b.admin.Serve(b.adminAt) }()
		b.logger.Info("admin page", "url", "http://"+b.adminAt.Addr().String()+"/-/status")
	}
	select {
	case err := <-failed:
		return errors.Join(err, b.stop())
	case <-ctx.Done():
		return b.stop()
	}
}

// stop ends what is in flight. http.Server does not wait for upgraded
// connections, and the proxy not for connections without a request: it takes
// both.
func (b *balancer) stop() error {
	b.stopping.Store(true)
	b.logger.Info("stopping", "grace", b.s.grace, "in flight", b.proxy.Status().InFlight)
	ctx, cancel := context.WithTimeout(context.Background(), b.s.grace)
	defer cancel()
	var server, proxy error
	var both sync.WaitGroup
	both.Go(func() { server = b.users.Shutdown(ctx) })
	both.Go(func() { proxy = b.proxy.Shutdown(ctx) })
	both.Wait()
	if server != nil || proxy != nil {
		left := b.proxy.Status().InFlight
		b.users.Close()
		return fmt.Errorf("%d requests were cut after %v: %w", left, b.s.grace, errors.Join(server, proxy))
	}
	return nil
}

func (b *balancer) close() {
	for _, l := range []net.Listener{b.at, b.adminAt} {
		if l != nil {
			l.Close()
		}
	}
	if b.admin != nil {
		b.admin.Close()
	}
	if b.proxy != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		b.proxy.Shutdown(ctx)
	}
	if b.log != nil {
		b.log.Close()
	}
}

// certificate reads its files again when they have changed, at most once a
// second.
type certificate struct {
	cert, key string
	logger    *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamp  [2]fileStamp
	now    *tls.Certificate
}

type fileStamp struct {
	at   time.Time
	size int64
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil && time.Since(c.looked) < time.Second {
		return c.now, nil
	}
	c.looked = time.Now()
	var stamp [2]fileStamp
	for i, name := range []string{c.cert, c.key} {
		if fi, err := os.Stat(name); err == nil {
			stamp[i] = fileStamp{fi.ModTime(), fi.Size()}
		}
	}
	if c.now != nil && stamp == c.stamp {
		return c.now, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	switch {
	case err == nil:
		c.now = &pair
	case c.now == nil:
		return nil, err
	default: // perhaps only one of the two is new yet
		c.logger.Error("the certificate cannot be read; the old one stays", "file", c.cert, "error", err)
	}
	c.stamp = stamp
	return c.now, nil
}
