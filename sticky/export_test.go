package sticky

import (
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// For the tests: what is not to be seen from outside.

// Ranking is a table of nodes.
type Ranking struct {
	entries  []entry
	weighted bool
}

func NewRanking(weighted bool, ids ...string) *Ranking {
	r := &Ranking{weighted: weighted}
	for _, id := range ids {
		r.entries = append(r.entries, entry{seed: seedOf(id), weight: 1, node: &node{id: id}})
	}
	return r
}

func (r *Ranking) Of(key uint64) string { return rank(r.entries, r.weighted, key, nil, time.Time{}).id }

var (
	KeyOfAddr   = keyOfAddr
	KeyOfString = keyOfString
	ClientOf    = clientOf
	CookieValue = cookieValue
	Prometheus  = prometheus
)

// Look returns the first cookie of this name.
func Look(lines []string, name string) (value string) {
	look(lines, name, func(v string) bool { value = v; return true })
	return value
}

// Strip takes the affinity cookies out of lines.
func Strip(lines []string) []string {
	j := newJar(Cookie{})
	h := http.Header{"Cookie": lines}
	j.strip(h)
	return h["Cookie"]
}

func KeepPrivate(h http.Header) { keepPrivate(h) }

func (p *Proxy) Client(r *http.Request) netip.Addr {
	a, _, _ := p.client(r)
	return a
}

// CloseAll closes n connections as Shutdown does, and returns after how long each
// was told to end, when the time is over.
func CloseAll(n int, over time.Duration) []time.Duration {
	var p Proxy
	from := time.Now()
	var mu sync.Mutex
	var ends []time.Duration
	for range n {
		p.addUpgrade(&node{}, func() {
			mu.Lock()
			defer mu.Unlock()
			ends = append(ends, time.Since(from))
		})
	}
	p.closeUpgraded(nil, over)
	time.Sleep(over)
	mu.Lock()
	defer mu.Unlock()
	return ends
}

// ReplayBody is a request's body over several attempts.
type ReplayBody struct{ replayBody }

func NewReplayBody(src io.ReadCloser, limit int) *ReplayBody {
	return &ReplayBody{replayBody{src: src, limit: limit}}
}

func (b *ReplayBody) Attempt() io.ReadCloser { return b.attempt() }
func (b *ReplayBody) Rewind() bool           { return b.rewind() }
