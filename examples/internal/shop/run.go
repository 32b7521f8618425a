package shop

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/distsession/session"
)

// Config is what the flags and the environment say.
type Config struct {
	Addr   string // to listen at
	Store  string // URL
	Name   string // of this process
	Secure bool
}

// ParseConfig reads the arguments behind the program's name, and the store
// from the environment if no flag names it.
func ParseConfig(args []string, getenv func(string) string, stderr io.Writer) (Config, error) {
	var c Config
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	f := flag.NewFlagSet("shop", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.Addr, "addr", "localhost:8080", "`address` to listen at")
	f.StringVar(&c.Store, "store", "", "`URL` of the store; if empty, the environment variable SESSION_STORE, or memory:")
	f.StringVar(&c.Name, "name", fmt.Sprintf("%s:%d", host, os.Getpid()), "`name` of this process, for the page")
	f.BoolVar(&c.Secure, "secure", false, "browsers come over https, through a TLS proxy in front")
	if err := f.Parse(args); err != nil {
		return Config{}, err
	}
	if f.NArg() > 0 {
		return Config{}, fmt.Errorf("%q is not a flag; try -h", f.Arg(0))
	}
	c.Store = cmp.Or(c.Store, getenv("SESSION_STORE"), "memory:")
	return c, nil
}

// Main is the whole program. It returns the exit code.
func Main() int {
	c, err := ParseConfig(os.Args[1:], os.Getenv, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := Run(ctx, c, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		return 1
	}
	return 0
}

// Run serves the shop until ctx ends, and then lets requests finish.
func Run(ctx context.Context, c Config, stdout io.Writer) (err error) {
	store, err := open(ctx, c.Store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close(store)) }()
	h, err := New(store, Redact(c.Store), Options{Name: c.Name, Secure: c.Secure})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("%w; choose another one with -addr", err)
	}
	greet(stdout, c, l.Addr())
	go session.RunCleaner(ctx, store, nil) // returns at once where the server removes what has expired
	err = Serve(ctx, l, h)
	if ctx.Err() != nil {
		fmt.Fprintln(stdout, "the shop is closed")
	}
	return err
}

// Serve serves h until ctx ends, and then lets requests finish.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return srv.Shutdown(ctx)
}

// open makes the store and asks it for a session that is not there, so that a
// store nobody can reach is found at the start.
func open(ctx context.Context, rawURL string) (session.Store, error) {
	store, err := session.Open(ctx, rawURL)
	if err != nil {
		return nil, fmt.Errorf("the store %s cannot be opened: %w", Redact(rawURL), err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := store.Load(ctx, session.NewToken()); !errors.Is(err, session.ErrNotFound) {
		return nil, errors.Join(
			fmt.Errorf("the store %s does not answer; check that it is running and that this is its address, or use -store memory: which needs no server: %w", Redact(rawURL), err),
			session.Close(store))
	}
	return store, nil
}
