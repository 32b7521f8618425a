package proof

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distsession/session"
)

// nodeConfig is what a node's process is started with.
type nodeConfig struct {
	Name     string
	Addr     string
	Backup   string        // URL of the store that all nodes share; "": plain memory
	MaxStale time.Duration // of the copies in the node's memory
	Log      string        // the file to which it appends the ID of every POST: "got" when it comes, "ran" when it is run
}

// nodeArg is the first argument of a process that is a node; the second one is
// its nodeConfig.
const nodeArg = "-proof.node"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == nodeArg {
		if err := runNode(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	printTable(os.Stdout)
	os.Exit(code)
}

// What a session holds: the numbers that each of two devices has added.
var added = map[string]session.Key[[]int]{"a": session.NewKey[[]int]("a"), "b": session.NewKey[[]int]("b")}

// work is how long an addition takes, so that some are under way when a node
// dies.
const work = 30 * time.Millisecond

// numbers is what a node answers.
type numbers struct{ A, B []int }

// of returns what a device has added.
func (n numbers) of(key string) []int {
	if key == "b" {
		return n.B
	}
	return n.A
}

// node is the application.
type node struct {
	config   nodeConfig
	backup   session.Store // nil: plain memory
	log      *os.File
	leaving  atomic.Bool
	requests atomic.Int64 // of users
	checks   atomic.Int64 // of the balancer
}

// runNode serves until SIGTERM, and then until the requests under way are
// answered.
func runNode(arg string) error {
	n := &node{}
	if err := json.Unmarshal([]byte(arg), &n.config); err != nil {
		return err
	}
	var err error
	// What an append has written stays written when the process is killed.
	if n.log, err = os.OpenFile(n.config.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	defer n.log.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var store session.Store = session.NewMemoryStore(nil)
	if n.config.Backup != "" {
		if n.backup, err = session.Open(ctx, n.config.Backup); err != nil {
			return err
		}
		store = session.Cached(n.backup, &session.CachedOptions{MaxStale: n.config.MaxStale})
	}
	sessions, err := session.New(store, &session.Options{
		Timeout:      5 * time.Second, // the machine may be busy
		Logger:       slog.New(slog.DiscardHandler),
		ErrorHandler: hangUp,
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", n.health)
	mux.HandleFunc("POST /-/leave", func(http.ResponseWriter, *http.Request) { n.leaving.Store(true) })
	mux.HandleFunc("GET /-/requests", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, n.requests.Load()) })
	mux.HandleFunc("GET /-/checks", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, n.checks.Load()) })
	mux.Handle("POST /in", n.counted(sessions.Handler(http.HandlerFunc(n.signIn))))
	mux.Handle("POST /add", n.counted(sessions.Handler(http.HandlerFunc(n.add))))
	mux.Handle("POST /hangup", n.counted(http.HandlerFunc(n.hangUpOnce)))
	mux.Handle("GET /{$}", n.counted(sessions.Handler(http.HandlerFunc(n.show))))
	server := &http.Server{Handler: mux}
	l, err := net.Listen("tcp", n.config.Addr)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

// hangUp answers nothing where the store failed, rather than 503: a balancer
// then gives a GET to the next node, and never a POST.
func hangUp(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }

// counted names the node in the answer.
func (n *node) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.requests.Add(1)
		w.Header().Set("X-Node", n.config.Name)
		next.ServeHTTP(w, r)
	})
}

// health is 503 when the node is about to leave, or cannot reach the backup.
func (n *node) health(w http.ResponseWriter, r *http.Request) {
	n.checks.Add(1)
	if n.leaving.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if n.backup == nil {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	if _, err := n.backup.Load(ctx, session.NewToken()); !errors.Is(err, session.ErrNotFound) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (n *node) signIn(w http.ResponseWriter, r *http.Request) {
	s, err := session.From(r.Context())
	if err != nil {
		return // the ErrorHandler answers
	}
	s.SetUser(r.URL.Query().Get("user"))
}

func (n *node) show(w http.ResponseWriter, r *http.Request) {
	if s := n.session(w, r); s != nil {
		answer(w, s)
	}
}

func (n *node) add(w http.ResponseWriter, r *http.Request) {
	n.note("got", r)
	s := n.session(w, r)
	if s == nil {
		return
	}
	number, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	n.note("ran", r)
	time.Sleep(work)
	added[r.URL.Query().Get("device")].Update(s, func(all []int) []int { return append(slices.Clip(all), number) })
	answer(w, s)
}

// hangUpOnce is a node that dies with a request in its hands.
func (n *node) hangUpOnce(_ http.ResponseWriter, r *http.Request) {
	n.note("ran", r)
	panic(http.ErrAbortHandler)
}

func (n *node) note(what string, r *http.Request) {
	if _, err := fmt.Fprintln(n.log, what, r.URL.Query().Get("id")); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// session answers 401 and returns nil if nobody is signed in.
func (n *node) session(w http.ResponseWriter, r *http.Request) *session.Session {
	s, err := session.From(r.Context())
	if err != nil {
		return nil // the ErrorHandler answers
	}
	if s.User() == "" {
		w.WriteHeader(http.StatusUnauthorized)
		return nil
	}
	return s
}

func answer(w http.ResponseWriter, s *session.Session) {
	var all numbers
	all.A, _ = added["a"].Get(s)
	all.B, _ = added["b"].Get(s)
	b, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
}
