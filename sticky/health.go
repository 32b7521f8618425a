package sticky

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// checkLoop checks a node until ctx ends.
func (p *Proxy) checkLoop(ctx context.Context, n *node) {
	tick := time.NewTicker(p.o.Health.Interval)
	defer tick.Stop()
	for {
		c, cancel := context.WithTimeout(ctx, p.o.Health.Timeout)
		result, why := p.check(c, n)
		cancel()
		if ctx.Err() != nil {
			return
		}
		p.checked(n, result, why)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

type checkResult uint8

const (
	checkOK checkResult = iota
	checkLeaving
	checkFailed
)

func (p *Proxy) check(ctx context.Context, n *node) (checkResult, string) {
	where := n.where.Load()
	if p.o.Health.Path == "" {
		c, err := p.o.Dial(ctx, "tcp", hostPort(where))
		if err != nil {
			return checkFailed, err.Error()
		}
		c.Close()
		return checkOK, ""
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String()+p.o.Health.Path, nil)
	if err != nil {
		return checkFailed, err.Error()
	}
	req.Host = p.o.Health.Host
	req.Header.Set("User-Agent", "sticky-health")
	req.Close = true // a check that reuses a connection does not check accepting one
	res, err := p.checks.RoundTrip(req)
	if err != nil {
		return checkFailed, err.Error()
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 400:
		return checkOK, ""
	case res.StatusCode == http.StatusServiceUnavailable:
		return checkLeaving, "the health path says 503"
	}
	return checkFailed, fmt.Sprintf("the health path says %d", res.StatusCode)
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// checked takes the result of a check.
func (p *Proxy) checked(n *node, result checkResult, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.removed {
		return
	}
	h := p.o.Health
	switch result {
	case checkOK:
		n.okRun, n.failRun = n.okRun+1, 0
		if n.health == healthNew || n.health != healthUp && n.okRun >= h.Rise {
			p.setHealth(n, healthUp, "")
		}
		n.proven = true
	case checkLeaving:
		n.okRun, n.failRun = 0, 0
		n.proven = true
		p.setHealth(n, healthLeaving, why)
	case checkFailed:
		n.okRun, n.failRun = 0, n.failRun+1
		if n.failRun >= h.Fall || !n.proven {
			p.setHealth(n, healthDown, why)
		}
	}
}

// failed takes a request's failure. sent tells whether the node got any of it.
//
// Only what a client cannot cause by itself takes a node out: a connection that
// is not taken, and silence to everybody. A node that closes the connection may
// just have a handler that panics; whoever knows its address could otherwise
// take out one node after the other. For the same reason an answer to anybody
// ends the count of silences: a slow page is no dead node.
func (p *Proxy) failed(n *node, err error, sent bool) {
	dial := !sent && isDial(err)
	switch {
	case ours(err):
		return
	case dial && refused(err):
		n.count.refused.Add(1)
	case !dial && !isTimeout(err):
		return
	case n.fails.add(time.Now(), p.o.Health.Fails, p.o.Health.Window):
		err = fmt.Errorf("%d requests in a row without an answer within %v, the last: %w", p.o.Health.Fails, p.o.Health.Window, err)
	default:
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.removed {
		return
	}
	n.okRun = 0
	p.setHealth(n, healthDown, err.Error())
}

// setHealth changes a node's health and what follows from it. p.mu is held.
func (p *Proxy) setHealth(n *node, to healthState, why string) {
	from := n.health
	n.reason = why
	if from == to {
		return
	}
	n.health, n.since = to, time.Now()
	n.fails.clear()
	n.ramp = nil
	switch to {
	case healthUp:
		p.o.Logger.Info("sticky: the node is up", "node", n.id)
		p.startRamp(n)
	case healthLeaving:
		p.o.Logger.Info("sticky: the node is leaving", "node", n.id, "reason", why)
	case healthDown:
		p.o.Logger.Warn("sticky: the node is down", "node", n.id, "reason", why)
		if n.own != nil {
			n.own.CloseIdleConnections()
		}
		if p.o.Health.Interval < 0 {
			since := n.since
			p.after(p.o.Health.Window, n, func() bool { return n.health == healthDown && n.since.Equal(since) }, func() { p.setHealth(n, healthUp, "") })
		}
	}
	p.rebuild()
}

// startRamp begins the node's slow start. p.mu is held.
func (p *Proxy) startRamp(n *node) {
	over := p.o.Health.SlowStart
	if over <= 0 {
		return
	}
	r := &ramp{from: time.Now(), over: over}
	n.ramp = r
	p.after(over, n, func() bool { return n.ramp == r }, func() { n.ramp = nil })
}

// after runs f under the lock, and rebuilds, if due still holds by then.
func (p *Proxy) after(d time.Duration, n *node, due func() bool, f func()) {
	time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.life.Err() == nil && !n.removed && due() {
			f()
			p.rebuild()
		}
	})
}

// canceled tells whether the client has gone.
func canceled(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }
