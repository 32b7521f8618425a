package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/distsession/session/examples/internal/shop"
	"github.com/distsession/session/sticky"
)

//go:embed page.html
var pageHTML []byte

//go:embed page.js
var pageJS []byte

//go:embed page.css
var pageCSS []byte

const (
	// checkEvery is how often the balancer asks a node whether it is ready.
	checkEvery = 200 * time.Millisecond

	// hung is how long a node may take to begin an answer: one that is paused
	// costs its visitor so long.
	hung = 2 * time.Second
)

// front is the balancer, and the page that shows the nodes behind it.
type front struct {
	nodes   nodes
	proxy   *sticky.Proxy
	ask     *http.Client
	handler http.Handler
}

func newFront(ns nodes) (*front, error) {
	var behind []sticky.Node
	for _, n := range ns {
		behind = append(behind, sticky.Node{ID: n.name, URL: &url.URL{Scheme: "http", Host: n.http}})
	}
	proxy, err := sticky.New(behind, &sticky.Options{
		// To show that every node has every session, no user is pinned: each
		// request goes wherever chance sends it.
		By:            sticky.ByKey(func(*http.Request) string { return strconv.FormatUint(rand.Uint64(), 36) }),
		Health:        sticky.Health{Path: "/ready", Interval: checkEvery, Timeout: 2 * checkEvery, Rise: 1, SlowStart: -1},
		HeaderTimeout: hung,
		Logger:        slog.New(slog.DiscardHandler), // the page shows it
	})
	if err != nil {
		return nil, err
	}
	f := &front{nodes: ns, proxy: proxy, ask: &http.Client{Timeout: 3 * checkEvery}}
	page := http.NewServeMux()
	page.HandleFunc("GET /cluster", file(pageHTML, "text/html; charset=utf-8"))
	page.HandleFunc("GET /cluster/page.js", file(pageJS, "text/javascript; charset=utf-8"))
	page.HandleFunc("GET /cluster/page.css", file(pageCSS, "text/css; charset=utf-8"))
	page.HandleFunc("GET /cluster/status", f.status)
	page.HandleFunc("POST /cluster/nodes/{name}/{action}", f.act)
	mux := http.NewServeMux()
	guarded := local(http.NewCrossOriginProtection().Handler(page))
	mux.Handle("/cluster", guarded)
	mux.Handle("/cluster/", guarded)
	mux.Handle("/", proxy)
	f.handler = mux
	return f, nil
}

// serve serves until ctx ends.
func (f *front) serve(ctx context.Context, l net.Listener) error {
	err := shop.Serve(ctx, l, f.handler)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(err, f.proxy.Shutdown(ctx))
}

// local lets only those through that reach the page by a name of this machine:
// a site that points a name of its own at 127.0.0.1 (DNS rebinding) would else
// pass for this one.
func local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "the page is for this machine alone: http://localhost…", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func file(text []byte, contentType string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Write(text)
	}
}

// nodeStatus is a row of the page's table.
type nodeStatus struct {
	Name    string  `json:"name"`
	State   state   `json:"state"`
	PID     int     `json:"pid"`
	Balance string  `json:"balance"` // what the balancer thinks of it
	Report  *report `json:"report"`  // what it says itself, if it answers
}

// status asks every node what it knows, on behalf of the visitor, whose cookie
// says which session is meant.
func (f *front) status(w http.ResponseWriter, r *http.Request) {
	rows := make([]nodeStatus, len(f.nodes))
	var wg sync.WaitGroup
	for i, n := range f.nodes {
		rows[i].Name = n.name
		rows[i].State, rows[i].PID = n.at()
		if rows[i].State == running {
			wg.Go(func() { rows[i].Report = f.report(r, n) })
		}
	}
	wg.Wait()
	for _, b := range f.proxy.Status().Nodes {
		for i := range rows {
			if rows[i].Name == b.ID {
				rows[i].Balance = string(b.State)
			}
		}
	}
	writeJSON(w, rows)
}

// report returns nil if the node does not answer.
func (f *front) report(r *http.Request, n *node) *report {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+n.http+"/node", nil)
	if err != nil {
		return nil
	}
	if c, err := r.Cookie(counterCookie); err == nil {
		req.AddCookie(c) // alone: the node shows what it answers for this session
	}
	res, err := f.ask.Do(req)
	if err != nil {
		return nil
	}
	defer res.Body.Close()
	var out report
	if res.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(res.Body, 1<<16)).Decode(&out) != nil {
		return nil
	}
	return &out
}

// act does to a node what the visitor asks for.
func (f *front) act(w http.ResponseWriter, r *http.Request) {
	n := f.nodes.byName(r.PathValue("name"))
	if n == nil {
		http.Error(w, "there is no such node", http.StatusNotFound)
		return
	}
	do, ok := map[string]func() error{
		"start": n.start, "start-empty": n.startEmpty, "stop": n.stop, "kill": n.kill, "pause": n.pause, "resume": n.resume,
	}[r.PathValue("action")]
	if !ok {
		http.Error(w, "there is no such action", http.StatusNotFound)
		return
	}
	switch err := do(); {
	case errors.Is(err, errState):
		http.Error(w, "not now: "+err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
