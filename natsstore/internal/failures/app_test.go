package failures_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/natsstore"
)

// nodeConfig is what a node's process is told.
type nodeConfig struct {
	Name       string
	Listen     string
	Voters     []string
	Dir        string
	Durability natsstore.Durability
	MaxStale   time.Duration
	Timeout    time.Duration // of the manager
	Socket     string        // where the application listens: a way that no partition cuts
	Folder     string        // of the certificates; "" for none
}

// modes are the stores of a node: both are of one bucket.
var modes = map[string]natsstore.Consistency{"strong": natsstore.Strong, "local": natsstore.Local}

// adds holds what clients have added to a session: each number once.
var adds = session.NewKey[[]int64]("adds")

// stopTime is what a node that is asked to end may take.
const stopTime = 15 * time.Second

// runNode is the process of a node, until SIGTERM.
func runNode(text string) error {
	var c nodeConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	opts := &natsstore.NodeOptions{Name: c.Name, Listen: c.Listen, Voters: c.Voters, Dir: c.Dir, Durability: c.Durability}
	if c.Folder != "" {
		if err := secure(opts, c.Folder); err != nil {
			return err
		}
	}
	node, err := natsstore.StartNode(opts)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	stores := map[string]*natsstore.Store{}
	for mode, consistency := range modes {
		s, err := node.Open(&natsstore.Options{Consistency: consistency, MaxStale: c.MaxStale})
		if err != nil {
			return err
		}
		stores[mode] = s
		if err := application(mux, "/"+mode, s, c.Timeout); err != nil {
			return err
		}
	}
	operate(mux, stores)
	os.Remove(c.Socket) // of a process that was killed
	l, err := net.Listen("unix", c.Socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	<-stop
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return err
	}
	return node.Shutdown(ctx)
}

// secure gives a node what the test has put into the folder.
func secure(o *natsstore.NodeOptions, folder string) error {
	cert, err := tls.LoadX509KeyPair(folder+"/cert.pem", folder+"/key.pem")
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(folder + "/ca.pem")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("no certificate in ca.pem")
	}
	if o.Secret, err = os.ReadFile(folder + "/secret"); err != nil {
		return err
	}
	o.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}
	return nil
}

// application is what users see: they sign in, add, read and sign out.
func application(mux *http.ServeMux, at string, store session.Store, timeout time.Duration) error {
	m, err := session.New(store, &session.Options{
		Transport: &session.HeaderTransport{}, Timeout: timeout, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	handle := func(method, path string, f func(http.ResponseWriter, *http.Request, *session.Session)) {
		mux.Handle(method+" "+at+path, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s, err := session.From(r.Context()); err == nil { // else the ErrorHandler answers
				f(w, r, s)
			}
		})))
	}
	signedIn := func(f func(http.ResponseWriter, *http.Request, *session.Session)) func(http.ResponseWriter, *http.Request, *session.Session) {
		return func(w http.ResponseWriter, r *http.Request, s *session.Session) {
			if s.User() == "" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			f(w, r, s)
		}
	}
	handle("POST", "/in", func(_ http.ResponseWriter, r *http.Request, s *session.Session) {
		s.SetUser(r.FormValue("user"))
	})
	handle("POST", "/out", func(_ http.ResponseWriter, _ *http.Request, s *session.Session) { s.Destroy() })
	handle("POST", "/add", signedIn(func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		adds.Update(s, func(ns []int64) []int64 { return append(ns[:len(ns):len(ns)], n) })
	}))
	handle("GET", "/read", signedIn(func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
		ns, _ := adds.Get(s)
		json.NewEncoder(w).Encode(ns)
	}))
	return nil
}

// operate is what the balancer and the test see.
func operate(mux *http.ServeMux, stores map[string]*natsstore.Store) {
	var first sync.Once
	var at atomic.Pointer[natsstore.Status] // when it was first ready
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		for _, s := range stores {
			if err := s.Ready(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		first.Do(func() {
			st := stores["local"].Status(r.Context())
			at.Store(&st)
		})
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		now := stores["local"].Status(r.Context())
		st := status{Leader: now.Leader}
		if at := at.Load(); at != nil {
			st.First = at.Sessions
			for _, v := range at.Voters {
				if v.Name == at.Node {
					st.Lag = v.Lag
				}
			}
		}
		json.NewEncoder(w).Encode(st)
	})
	number := func(pattern string, f func(r *http.Request, n int) (int, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			n, err := strconv.Atoi(r.FormValue("n"))
			if err == nil {
				n, err = f(r, n)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, n)
		})
	}
	number("POST /fill", func(r *http.Request, n int) (int, error) { return n, fill(r.Context(), stores["strong"], n) })
	number("GET /strong/missing", func(r *http.Request, n int) (int, error) { return missing(r.Context(), stores["strong"], n) })
	number("GET /local/missing", func(r *http.Request, n int) (int, error) { return missing(r.Context(), stores["local"], n) })
}

// filler is the token of the i-th session that fill makes.
func filler(i int) string {
	sum := sha256.Sum256([]byte("filler " + strconv.Itoa(i)))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// inParallel calls f with 0 to n-1 until one fails.
func inParallel(n int, f func(i int) error) error {
	const workers = 64
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					next.Store(int64(n))
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// fill makes n sessions.
func fill(ctx context.Context, s session.Store, n int) error {
	now := time.Now()
	return inParallel(n, func(i int) error {
		_, err := s.Save(ctx, &session.Record{
			ID: session.ID(filler(i)), Created: now, Seen: now, Expires: now.Add(time.Hour), Deadline: now.Add(time.Hour),
			Data: fmt.Appendf(nil, `{"adds":[%d]}`, i),
		})
		return err
	})
}

// missing tells how many of the sessions that fill made are not there.
func missing(ctx context.Context, s session.Store, n int) (int, error) {
	var none atomic.Int64
	err := inParallel(n, func(i int) error {
		rec, err := s.Load(ctx, filler(i))
		switch {
		case errors.Is(err, session.ErrNotFound):
			none.Add(1)
		case err != nil:
			return err
		case string(rec.Data) != fmt.Sprintf(`{"adds":[%d]}`, i):
			return fmt.Errorf("session %d holds %s", i, rec.Data)
		}
		return nil
	})
	return int(none.Load()), err
}
