package sticky

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// exchange is one request on its way. It carries a ReverseProxy of its own,
// whose functions are bound to it, and is used again: so a request costs neither
// a context value nor a closure for what they share.
type exchange struct {
	p     *Proxy
	proxy httputil.ReverseProxy

	in     *http.Request
	cancel context.CancelFunc // of an upgrade or an event stream
	up     *upgrade
	tls    bool
	client netip.Addr
	chain  string // what is believed of X-Forwarded-For
	known  bool   // the peer is a trusted proxy

	key    uint64
	keyed  bool
	pinned *node // that the cookie names
	old    bool  // by a key that is not the newest
	node   *node // that has the request now
	tried  []*node
	home   *node // without cookies: where the user belongs, if a node is out
	full   bool  // a node was passed over because it has no room, not because it is out
	away   bool  // the pinned one was
	moving bool  // by Rebalance

	body *replayBody
	err  error
}

func newExchange(p *Proxy) *exchange {
	x := &exchange{p: p}
	x.proxy = httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      x,
		ModifyResponse: x.modify,
		ErrorHandler:   x.fail,
		BufferPool:     &p.buffers,
		ErrorLog:       p.errorLog,
	}
	return x
}

func (x *exchange) begin(r *http.Request) {
	x.in = r
	x.client, x.chain, x.known = x.p.client(r)
	x.tls = r.TLS != nil || x.known && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// end gives everything back, also when the handler panics because the node died.
func (x *exchange) end(r *http.Request) {
	p := x.p
	o := Outcome{Client: x.client, Attempts: len(x.tried), Err: x.err}
	if n := x.node; n != nil {
		if x.err == nil {
			o.Node = n.id
			o.Moved = x.astray()
		}
		if x.up != nil {
			p.upgrades.drop(x.up)
			n.upgraded.Add(-1)
		}
		n.leave()
	}
	*x = exchange{p: p, proxy: x.proxy, tried: x.tried[:0]}
	clear(x.tried[:cap(x.tried)])
	p.exchanges.Put(x)
	if p.o.Observer != nil {
		p.o.Observer(r, o)
	}
	if p.inFlight.Add(-1) == 0 {
		p.quiet.tell()
	}
}

// choose finds the first node for the request and takes a place there.
func (x *exchange) choose() bool {
	p := x.p
	if p.o.By.kind == byCookie {
		x.readCookie()
		if n := x.pinned; n != nil && (x.move(n) || x.next(n)) {
			return true
		}
	}
	return x.nextRank()
}

// move takes a place on another node than the user's, if Rebalance says so.
func (x *exchange) move(from *node) bool {
	to := x.p.moving.target(from, x)
	if to == nil || to.enter(takesNew) != entered {
		return false
	}
	x.moving = true
	x.take(to)
	from.count.movedAway.Add(1)
	return true
}

// next takes a place on n, unless it has none.
func (x *exchange) next(n *node) bool {
	gate := uint32(takesNew)
	if n == x.pinned {
		gate = takesPinned
	}
	switch n.enter(gate) {
	case entered:
		x.take(n)
		return true
	case full:
		x.tried = append(x.tried, n)
		x.full, x.away = true, true
	}
	return false
}

func (x *exchange) take(n *node) {
	x.node = n
	x.tried = append(x.tried, n)
	n.count.requests.Add(1)
	switch {
	case n == x.pinned:
		n.count.pinned.Add(1)
	case x.moving:
	case x.astray():
		n.count.failovers.Add(1)
	}
}

// astray tells whether the node that has the request is not its user's own.
func (x *exchange) astray() bool {
	n := x.node
	return len(x.tried) > 1 || x.pinned != nil && x.pinned != n || x.home != nil && x.home != n
}

// nextRank takes a place on the best node that was not tried yet.
func (x *exchange) nextRank() bool {
	p := x.p
	if !x.keyed {
		x.key, x.keyed = x.userKey(), true
	}
	for {
		t := p.table.Load()
		var now time.Time
		if t.ramps {
			now = time.Now()
		}
		n, gate := rank(t.ranked, t.weighted, x.key, x.tried, now), uint32(takesNew)
		if n == nil {
			if x.full || p.o.Health.Strict {
				return false
			}
			gate = takesLast
			if n = rank(t.leaving, t.weighted, x.key, x.tried, now); n == nil {
				n = rank(t.down, t.weighted, x.key, x.tried, now)
			}
			if n == nil {
				return false
			}
		}
		switch n.enter(gate) {
		case entered:
			if p.o.By.kind != byCookie && len(t.ranked) < len(t.all) {
				x.home = rank(t.all, t.weighted, x.key, nil, now)
			}
			x.take(n)
			return true
		case full:
			x.full = true
			x.tried = append(x.tried, n)
		case closed:
			// The node is just being taken out: its gate is closed, and the new
			// table will be there when whoever does it lets go of the lock.
			p.mu.Lock()
			p.mu.Unlock()
		}
	}
}

// userKey tells users apart where nothing pins them. In cookie mode it is the
// whole Cookie header: the requests that a browser makes at once then go to one
// node, and users behind one address to several. Who has none is new.
func (x *exchange) userKey() uint64 {
	switch by := x.p.o.By; by.kind {
	case byCookie:
		h := uint64(0)
		for _, line := range x.in.Header["Cookie"] {
			h = mix(h ^ keyOfString(line))
		}
		if h == 0 {
			return random()
		}
		return h
	case byKey:
		if k := by.key(x.in); k != "" {
			return keyOfString(k)
		}
	}
	return keyOfAddr(x.client)
}

// readCookie finds the node that the user's cookie names.
func (x *exchange) readCookie() {
	p := x.p
	lines := x.in.Header["Cookie"]
	if len(lines) == 0 {
		return
	}
	pins := p.table.Load().pins
	found := false
	look(lines, p.jar.name(x.tls), func(v string) bool {
		found = true
		if e, ok := pins[v]; ok {
			x.pinned, x.old = e.node, e.old
			return true
		}
		return false
	})
	switch {
	case found && x.pinned == nil:
		p.total.unknownCookies.Add(1)
	case x.old:
		p.total.oldCookies.Add(1)
	}
}

// modify finishes the answer of the node that gave one.
func (x *exchange) modify(res *http.Response) error {
	events := isEvents(res.Header)
	if events && x.cancel == nil { // nobody said so before
		body := &onceBody{ReadCloser: res.Body}
		res.Body = body
		x.cancel = func() { body.Close() }
	}
	if x.cancel != nil && (events || res.StatusCode == http.StatusSwitchingProtocols) {
		up, ok := x.p.addUpgrade(x.node, x.cancel)
		if !ok {
			return errClosing
		}
		x.up = up
		x.node.upgraded.Add(1)
	}
	x.setCookie(res)
	if x.closes() && res.StatusCode != http.StatusSwitchingProtocols {
		res.Header.Set("Connection", "close")
	}
	return nil
}

// onceBody is closed once, whoever does it.
type onceBody struct {
	io.ReadCloser
	once sync.Once
}

func (b *onceBody) Close() (err error) {
	b.once.Do(func() { err = b.ReadCloser.Close() })
	return err
}

// closes tells whether the connection must be closed after the answer. A
// request with a length as well as a coding is read by the coding alone, and
// what follows it may be a request that somebody smuggled (RFC 9112, 6.3).
// net/http hides the length, so every chunked request of HTTP/1 is treated so;
// browsers send none. In HTTP/1.0 net/http obeys the length alone and hides the
// coding, which a proxy in front may have obeyed (6.1).
func (x *exchange) closes() bool {
	return x.in.ProtoMajor == 1 && (len(x.in.TransferEncoding) > 0 || x.in.ProtoMinor == 0)
}

var errClosing = errors.New("sticky: shutting down")

// setCookie pins the user to the node that answered, if the cookie does not say
// so already. A node that was only full keeps its user.
func (x *exchange) setCookie(res *http.Response) {
	p := x.p
	if p.o.By.kind != byCookie {
		return
	}
	n := x.node
	switch {
	case n == x.pinned && !x.old:
		return
	case x.away && n != x.pinned:
		return
	case res.StatusCode == http.StatusNotModified:
		return // a cache adds its headers to an answer that it may share (RFC 9111, 4.3.4)
	}
	res.Header.Add("Set-Cookie", p.jar.set(x.tls, n.cookie))
	keepPrivate(res.Header)
	p.total.cookiesSet.Add(1)
}

// refuse answers that there is no node.
func (x *exchange) refuse(w http.ResponseWriter) {
	x.err = errNoNode
	x.p.total.unserved.Add(1)
	x.unavailable(w)
}

func (x *exchange) unavailable(w http.ResponseWriter) {
	h := w.Header()
	if x.closes() {
		h.Set("Connection", "close")
	}
	h.Set("Retry-After", strconv.Itoa(retryAfter))
	h.Set("Cache-Control", "no-store")
	http.Error(w, "503 Service Unavailable", http.StatusServiceUnavailable)
}

const retryAfter = 1 // seconds

// fail answers for a node that did not.
func (x *exchange) fail(w http.ResponseWriter, r *http.Request, err error) {
	x.err = err
	n := x.node
	status := http.StatusBadGateway
	switch bad := x.bodyError(); {
	case errors.Is(err, errClosing):
		x.unavailable(w)
		return
	case bad != nil:
		status = statusOfBody(bad)
	case canceled(r.Context()):
		x.p.total.canceled.Add(1)
	case isTimeout(err):
		status = http.StatusGatewayTimeout
		n.count.failures.Add(1)
	default:
		n.count.failures.Add(1)
	}
	if status < 500 || x.closes() {
		w.Header().Set("Connection", "close")
	}
	if status >= 500 {
		x.p.o.Logger.Debug("sticky: no answer", "node", n.id, "method", r.Method, "error", err)
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, strconv.Itoa(status)+" "+http.StatusText(status), status)
}

// statusOfBody is whose fault a request's body is that could not be read.
func statusOfBody(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case isTimeout(err):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}
