package proof

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"
)

// TestNotices puts a balancer in front that does all that the proof counts:
// what it does has to be counted.
func TestNotices(t *testing.T) {
	t.Parallel()
	f := newFleet(t, true, time.Hour)
	bad := newBad(t, f)
	l := startLoad(t, f, loadOptions{users: 30, pause: 250 * time.Millisecond, second: true,
		route: func(d *device, _ int) (string, http.Header) {
			d.keep(versionCookie, "")
			return bad.URL, nil
		}})
	l.progress(20)
	sum := l.end()
	t.Logf("%+v", sum)
	for _, c := range []struct {
		n         int
		what, why string
	}{
		{sum.moved, "moved", "requests go to the nodes in turn"},
		{sum.missed, "missed", "nodes hold their copies for an hour, and the version's cookie is dropped"},
		{sum.stale, "stale", "nodes hold their copies for an hour"},
		{sum.twice, "twice", "POSTs are sent again"},
		{sum.failed, "failed", "some answers are 500"},
		{sum.lost, "lost", "some session cookies are dropped"},
		{sum.updates, "updates", "some POSTs are acknowledged that no node got"},
	} {
		if c.n == 0 {
			t.Errorf("%s: 0, though %s", c.what, c.why)
		}
	}
}

// bad is a balancer that does everything wrong.
type bad struct {
	*httptest.Server
	n atomic.Int64
}

func newBad(t *testing.T, f *fleet) *bad {
	t.Helper()
	var nodes []http.Handler
	for _, addr := range f.addrs() {
		nodes = append(nodes, httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr}))
	}
	b := &bad{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(b.n.Add(1))
		node := nodes[n%len(nodes)]
		switch {
		case r.URL.Path == "/in":
		case n%50 == 0:
			w.WriteHeader(http.StatusInternalServerError)
			return
		case n%30 == 1:
			r.Header.Del("Cookie")
		case n%20 == 3 && r.Method == http.MethodPost:
			return // 200
		case n%5 == 2 && r.Method == http.MethodPost:
			node.ServeHTTP(httptest.NewRecorder(), r.Clone(r.Context()))
		}
		node.ServeHTTP(w, r)
	}))
	t.Cleanup(b.Close)
	return b
}
