package sticky

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy balances over nodes. It is safe for concurrent use. Make one with New
// and end it with Shutdown.
type Proxy struct {
	o         Options
	jar       jar
	table     atomic.Pointer[table]
	exchanges sync.Pool // of *exchange
	buffers   buffers
	errorLog  *log.Logger
	checks    http.RoundTripper
	budget    budget
	upgrades  upgrades
	total     totals
	moving    rebalancer
	inFlight  atomic.Int64
	quiet     quiet

	life context.Context // until Shutdown
	end  context.CancelFunc
	work sync.WaitGroup

	mu        sync.Mutex
	nodes     map[string]*node
	order     []*node
	closed    bool
	filedRate bool // the last Config had a rate for Rebalance
}

// New returns a proxy over these nodes; there may be none yet. They count as up
// until the first check, which is made at once.
func New(nodes []Node, opts *Options) (*Proxy, error) {
	o, err := opts.fill()
	if err != nil {
		return nil, err
	}
	if err := checkNodes(nodes); err != nil {
		return nil, err
	}
	if len(o.Keys) == 0 {
		o.Keys = [][]byte{randomKey()}
		if o.By.kind == byCookie {
			o.Logger.Warn("sticky: no Keys: affinity cookies end with this process and mean nothing to another balancer")
		}
	}
	p := &Proxy{o: o, jar: newJar(o.Cookie), nodes: make(map[string]*node)}
	p.life, p.end = context.WithCancel(context.Background())
	p.errorLog = slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug)
	p.budget.init(o.Retry.Budget)
	p.checks = o.Transport
	if p.checks == nil {
		t := p.newTransport()
		t.DisableKeepAlives = true
		p.checks = t
	}
	p.exchanges.New = func() any { return newExchange(p) }
	p.mu.Lock()
	p.setNodes(nodes, healthUp)
	p.mu.Unlock()
	p.Rebalance(o.Rebalance)
	return p, nil
}

// ServeHTTP sends the request to its user's node and the answer back.
//
// It panics with http.ErrAbortHandler when a node dies in the middle of its
// answer, which is how a handler tells [http.Server] to break the connection:
// whoever recovers must panic on with that one.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		w.Header().Set("Connection", "close") // what follows is no request, if it wanted a tunnel
		http.Error(w, "CONNECT is for forward proxies", http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Opaque != "" {
		w.Header().Set("Connection", "close")
		http.Error(w, "the request's target is no path", http.StatusBadRequest)
		return
	}
	upgrade := isUpgrade(r.Header)
	if upgrade && !printable(r.Header.Get("Upgrade")) {
		w.Header().Set("Connection", "close") // what follows is no request, if it took that for an upgrade
		http.Error(w, "Upgrade names no protocol", http.StatusBadRequest)
		return
	}
	p.total.requests.Add(1)
	p.inFlight.Add(1)
	x := p.exchanges.Get().(*exchange)
	x.begin(r)
	defer x.end(r)
	if !x.choose() {
		x.refuse(w)
		return
	}
	if upgrade || acceptsEvents(r.Header) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		x.cancel = cancel
		r = r.WithContext(ctx)
	}
	x.proxy.ServeHTTP(w, r)
}

// Shutdown stops the checks, closes upgraded connections and event streams, each
// at a random moment of CloseOver but well before ctx's deadline, takes no new
// ones, and returns when nothing is in flight. Other requests are still served:
// it is http.Server.Shutdown that stops those, and does not wait for upgraded
// connections, so call both, at the same time. It returns ctx's error if that
// takes longer. Nothing may be in flight when the process ends.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.end()
	for _, n := range p.order {
		p.stopTimer(n)
		n.quiet.tell() // a Drain that waits for the timer
	}
	p.mu.Unlock()

	over := p.o.CloseOver
	if deadline, ok := ctx.Deadline(); ok {
		over = min(over, time.Until(deadline)*3/4)
	}
	p.upgrades.mu.Lock()
	p.upgrades.closed = true
	p.upgrades.mu.Unlock()
	p.closeUpgraded(nil, over)

	err := p.quiet.wait(ctx, func() bool { return p.inFlight.Load() == 0 })
	if err == nil {
		p.work.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, n := range p.order {
			if n.own != nil {
				n.own.CloseIdleConnections()
			}
		}
	}
	return err
}

var errNoNode = errors.New("sticky: no node takes the request")

// random is a new user's key: chance, by weight.
func random() uint64 { return rand.Uint64() }
