package sticky

import (
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
)

// RoundTrip sends the request to the node that was chosen, and to the next ones
// as far as that is safe. It is the Transport of the exchange's ReverseProxy.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	p := x.p
	p.budget.earn()
	replayable := x.prepareBody(out)
	f := &flight{}
	f.watch(httptrace.ContextClientTrace(out.Context()))
	req := out
	var stale *node // whose kept connection was dead before anything was sent
	for attempts := 0; ; {
		n := x.node
		f.start()
		where := n.where.Load()
		req.URL.Scheme, req.URL.Host = where.Scheme, where.Host
		res, err := x.transport(n).RoundTrip(req)
		n.count.replays.Add(f.replays())
		if err == nil {
			n.fails.clear()
			cleanConnection(res.Header)
			return res, nil
		}
		if out.Context().Err() != nil || x.bodyError() != nil {
			return nil, err // not the node's fault
		}
		sent := f.sent(err, n.own != nil)
		again := !sent && f.connected() && stale != n && !isTimeout(err)
		if !again {
			p.failed(n, err, sent)
		}
		if !again && (sent || !refused(err)) { // a refusal is quick to find out, and then known
			attempts++
		}
		switch {
		case attempts >= p.o.Retry.Attempts:
			return nil, err
		case sent && (!replayable || f.answered.Load()):
			return nil, err
		case x.body != nil && !x.body.rewind():
			return nil, err
		case sent && !p.budget.take():
			p.total.overBudget.Add(1)
			return nil, err
		}
		switch {
		case again:
			stale = n // the node itself may be well
			n.count.replays.Add(1)
		case x.another():
			n.count.retries.Add(1)
		default:
			return nil, err
		}
		req = out.Clone(out.Context()) // the failed attempt may still look at its own
		req.Trailer = out.Trailer
		if x.body != nil {
			req.Body = x.body.attempt()
		}
	}
}

// another gives the place up for one on the next node.
func (x *exchange) another() bool {
	last := x.node
	if !x.nextRank() {
		return false
	}
	last.leave()
	return true
}

func (x *exchange) transport(n *node) http.RoundTripper {
	if n.own != nil {
		return n.own
	}
	return x.p.o.Transport
}

// flight watches one request over its attempts. The hooks are called from the
// transport's goroutines, also late, so it is not used again.
type flight struct {
	mu       sync.Mutex
	conn     *countedConn
	before   int64 // written to conn before this attempt
	wrote    bool  // to an earlier connection of this attempt
	tries    int   // connections that this attempt got
	answered atomic.Bool
}

// watch adds the hooks to the trace that ReverseProxy made for this request.
// Another WithClientTrace would compose the two by reflection.
func (f *flight) watch(t *httptrace.ClientTrace) {
	if t == nil {
		return
	}
	gotConn, firstByte, informational := t.GotConn, t.GotFirstResponseByte, t.Got1xxResponse
	t.GotConn = func(info httptrace.GotConnInfo) {
		f.got(info)
		if gotConn != nil {
			gotConn(info)
		}
	}
	t.GotFirstResponseByte = func() {
		f.answered.Store(true)
		if firstByte != nil {
			firstByte()
		}
	}
	t.Got1xxResponse = func(code int, h textproto.MIMEHeader) error {
		f.answered.Store(true)
		removeHopByHop(http.Header(h)) // net/http passes them on (Go issue 81319)
		if informational == nil {
			return nil
		}
		return informational(code, h)
	}
}

// start begins an attempt.
func (f *flight) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn, f.before, f.wrote, f.tries = nil, 0, false, 0
}

// replays is how often net/http began anew on another connection.
func (f *flight) replays() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(max(f.tries-1, 0))
}

// connected tells whether this attempt had a connection.
func (f *flight) connected() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tries > 0
}

func (f *flight) got(info httptrace.GotConnInfo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrote = f.wroteLocked()
	f.tries++
	if f.conn = counted(info.Conn); f.conn != nil {
		f.before = f.conn.written.Load()
	}
}

// wroteLocked tells whether anything was written in this attempt so far.
func (f *flight) wroteLocked() bool {
	if f.wrote || f.tries > 0 && f.conn == nil {
		return true // a connection that does not count
	}
	return f.conn != nil && f.conn.written.Load() > f.before
}

// sent tells whether this attempt's node may have seen any of the request. In doubt it
// has.
func (f *flight) sent(err error, own bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case errors.Is(err, ErrNotSent):
		return false
	case f.tries > 0:
		return f.wroteLocked()
	}
	// Without a connection net/http's transport has sent nothing. Of another
	// one a failed dial is believed.
	return !own && !isDial(err)
}
