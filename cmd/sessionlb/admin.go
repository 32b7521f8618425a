package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/distsession/session/sticky"
)

//go:embed status.html
var statusPage string

// admin is the handler behind the admin address.
type admin struct {
	proxy *sticky.Proxy
	page  *template.Template
	hosts []string
	acts  bool // may change something
}

func newAdmin(p *sticky.Proxy, at net.Addr, hosts []string, stopping *atomic.Bool) http.Handler {
	a := &admin{proxy: p, page: template.Must(template.New("status").Funcs(template.FuncMap{"ago": ago}).Parse(statusPage)), hosts: hosts}
	if ap, err := netip.ParseAddrPort(at.String()); err == nil {
		a.acts = ap.Addr().Unmap().IsLoopback()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /-/status", a.status)
	mux.Handle("GET /-/metrics", p.Metrics())
	mux.HandleFunc("GET /-/health", func(w http.ResponseWriter, r *http.Request) {
		if stopping.Load() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/-/status", http.StatusSeeOther) })
	if a.acts {
		mux.HandleFunc("POST /-/drain", a.drain)
		mux.HandleFunc("POST /-/resume", a.resume)
	}
	// A form of another site, Sec-Fetch-Site and Origin tell.
	return a.ownName(http.NewCrossOriginProtection().Handler(mux))
}

// ownName refuses names that anybody may have pointed at this address: behind
// one, a page of another site would be of the same origin (DNS rebinding).
func (a *admin) ownName(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		_, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err != nil && !strings.EqualFold(host, "localhost") && !slices.ContainsFunc(a.hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
			http.Error(w, "This name is not known here; use the address, or start sessionlb with -admin-hosts.", http.StatusMisdirectedRequest)
			return
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		next.ServeHTTP(w, r)
	})
}

func (a *admin) status(w http.ResponseWriter, r *http.Request) {
	s := a.proxy.Status()
	w.Header().Set("Vary", "Accept")
	if !wantsHTML(r.Header.Get("Accept")) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.Encode(s)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	a.page.Execute(w, struct {
		sticky.Status
		Acts bool
	}{s, a.acts})
}

// wantsHTML tells whether Accept names HTML: browsers do; curl and programs get
// JSON.
func wantsHTML(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		t, _, _ := strings.Cut(part, ";")
		switch strings.ToLower(strings.TrimSpace(t)) {
		case "text/html", "application/xhtml+xml":
			return true
		case "application/json":
			return false
		}
	}
	return false
}

func (a *admin) drain(w http.ResponseWriter, r *http.Request) {
	mode := sticky.Move
	switch text := r.PostFormValue("mode"); {
	case text == "" || text == "move":
	default:
		span, ok := strings.CutPrefix(text, "keep ")
		d, err := time.ParseDuration(span)
		if !ok || err != nil || d <= 0 {
			http.Error(w, `mode is "move", or "keep" and a duration: "keep 10m"`, http.StatusBadRequest)
			return
		}
		mode = sticky.Keep(d)
	}
	// To begin it is enough; the page shows what is still in flight.
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	err := a.proxy.Drain(ctx, r.PostFormValue("id"), mode)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	a.done(w, r, err)
}

func (a *admin) resume(w http.ResponseWriter, r *http.Request) {
	a.done(w, r, a.proxy.Resume(r.PostFormValue("id")))
}

func (a *admin) done(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, sticky.ErrUnknownNode):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		http.Redirect(w, r, "/-/status", http.StatusSeeOther)
	}
}

func ago(t time.Time) string { return time.Since(t).Round(time.Second).String() }
