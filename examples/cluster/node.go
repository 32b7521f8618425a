package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/examples/internal/shop"
	"github.com/distsession/session/natsstore"
)

// nodeConfig is what a node is told.
type nodeConfig struct {
	name        string
	http        string   // where the shop listens
	listen      string   // where the other nodes reach this one
	voters      []string // all of these addresses
	dir         string
	consistency natsstore.Consistency
}

const (
	// goodbye is how long a node that is asked to stop still answers, and tells
	// the balancer that it is leaving: longer than two of its checks.
	goodbye = 3 * checkEvery

	// handover is how long it then waits for the others to have all that it has.
	handover = 10 * time.Second
)

// runNode is one node: a voter, the shop, and what the page asks of it.
func runNode(ctx context.Context, c nodeConfig) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	slog.SetDefault(log)
	all, end := context.WithCancel(context.WithoutCancel(ctx)) // until all nodes end, and not this one alone
	defer end()
	go func() {
		io.Copy(io.Discard, os.Stdin) // ends with the program that started this one
		end()
	}()

	node, err := natsstore.StartNode(&natsstore.NodeOptions{
		Name: c.name, Listen: c.listen, Voters: c.voters, Dir: c.dir, Logger: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	store, err := node.Open(&natsstore.Options{Consistency: c.consistency})
	if err != nil {
		return err
	}

	l, err := net.Listen("tcp", c.http)
	if err != nil {
		return err
	}
	n := &shopNode{store: store, name: c.name}
	h, err := n.handler(log)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(all)
	defer stop()
	context.AfterFunc(ctx, func() {
		n.leaving.Store(true)
		time.AfterFunc(goodbye, stop)
	})
	if err := shop.Serve(serving, l, h); err != nil || all.Err() != nil {
		return err
	}
	bye, cancel := context.WithTimeout(all, handover)
	defer cancel()
	if err := node.Shutdown(bye); err != nil {
		log.Warn("the others are not ready to go on without this node; it ends all the same", "reason", err)
	}
	return nil
}

// shopNode is the application on a node.
type shopNode struct {
	store   *natsstore.Store
	name    string
	leaving atomic.Bool
}

// clicks is the page's counter. Its session is not the shop's, so that signing
// out there does not end it.
var clicks = session.NewKey[int]("clicks")

const counterCookie = "clicks"

func (n *shopNode) handler(log *slog.Logger) (http.Handler, error) {
	tea, err := shop.New(n.store, "the nodes: "+n.store.Status(context.Background()).Consistency.String()+" reads", shop.Options{Name: n.name, Logger: log, Framed: true})
	if err != nil {
		return nil, err
	}
	counters, err := session.New(n.store, &session.Options{
		Transport: session.CookieTransport{Name: counterCookie, Insecure: true},
		Logger:    log,
		Insecure:  true,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", tea)
	mux.Handle("POST /count", http.NewCrossOriginProtection().Handler(counters.Handler(http.HandlerFunc(n.count))))
	mux.Handle("GET /node", counters.Handler(http.HandlerFunc(n.report)))
	mux.HandleFunc("GET /ready", n.ready)
	return mux, nil
}

// ready tells the balancer whether to send requests here.
func (n *shopNode) ready(w http.ResponseWriter, r *http.Request) {
	if n.leaving.Load() {
		http.Error(w, "leaving", http.StatusServiceUnavailable)
		return
	}
	n.store.ReadyHandler().ServeHTTP(w, r)
}

// counted is the answer to a click, once it is saved.
type counted struct {
	Node   string `json:"node"`
	Clicks int    `json:"clicks"`
}

func (n *shopNode) count(w http.ResponseWriter, r *http.Request) {
	s, err := session.From(r.Context())
	if err != nil {
		return // the answer is 503
	}
	clicks.Update(s, func(n int) int { return n + 1 })
	if s.Save(r.Context()) != nil {
		return
	}
	var c counted
	c.Node = n.name
	c.Clicks, _ = clicks.Get(s) // what was stored
	writeJSON(w, c)
}

// report is what a node knows of the cluster and of the visitor's session.
type report struct {
	Ready    string `json:"ready"` // "" if it is, or why not
	Leader   string `json:"leader"`
	Sequence uint64 `json:"sequence"` // how far the copy has read
	Stale    int64  `json:"stale"`    // age of the copy in milliseconds; below 0: none
	Sessions int    `json:"sessions"` // in the copy; below 0: none
	Held     bool   `json:"held"`     // the visitor's session is to be had here
	Clicks   int    `json:"clicks"`   // in it
}

func (n *shopNode) report(w http.ResponseWriter, r *http.Request) {
	st := n.store.Status(r.Context())
	out := report{Leader: st.Leader, Sequence: st.Sequence, Stale: -1, Sessions: st.Sessions}
	if st.Stale >= 0 {
		out.Stale = st.Stale.Milliseconds()
	}
	if st.Ready != nil {
		out.Ready = st.Ready.Error()
	}
	if n.leaving.Load() {
		out.Ready = "leaving"
	}
	if s, err := session.From(r.Context()); err == nil {
		out.Clicks, out.Held = clicks.Get(s)
	}
	writeJSON(w, out)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(v)
}
