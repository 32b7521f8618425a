package sticky

import (
	"net"
	"net/url"
	"sync"
	"time"
)

// nodeAddr is what connections are pooled by.
type nodeAddr struct {
	scheme, host string
}

func hostOf(u *url.URL) nodeAddr { return nodeAddr{u.Scheme, u.Host} }

// addr is the host with its port.
func (a nodeAddr) addr() string {
	u := url.URL{Host: a.host}
	if u.Port() != "" {
		return a.host
	}
	port := "80"
	if a.scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// idleConns keeps the connections that no request uses, the newest in front.
// While there are any, one timer closes those that have waited too long.
type idleConns struct {
	max     int
	timeout time.Duration

	mu    sync.Mutex
	conns map[nodeAddr][]*directConn // the last is the one used last
	epoch int                        // of closeAll: a connection of an earlier one is not kept
	timer *time.Timer                // nil while there is nothing to wait for
}

// take returns a connection on which a request can be sent, or nil.
func (p *idleConns) take(to nodeAddr) *directConn {
	for {
		p.mu.Lock()
		conns := p.conns[to]
		if len(conns) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := conns[len(conns)-1]
		conns[len(conns)-1] = nil
		p.conns[to] = conns[:len(conns)-1]
		p.mu.Unlock()
		if time.Since(c.idleSince) < p.timeout && c.quiet() {
			return c
		}
		c.conn.Close()
	}
}

// put keeps a connection, unless there are enough.
func (p *idleConns) put(c *directConn) bool {
	c.idleSince = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.epoch != p.epoch || len(p.conns[c.to]) >= p.max {
		return false
	}
	if p.conns == nil {
		p.conns = make(map[nodeAddr][]*directConn)
	}
	p.conns[c.to] = append(p.conns[c.to], c)
	if p.timer == nil {
		p.timer = time.AfterFunc(p.timeout, p.sweep)
	}
	return true
}

// current is the epoch that a connection opened now belongs to.
func (p *idleConns) current() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

// sweep closes what is too old, and comes back when the next will be.
func (p *idleConns) sweep() {
	p.mu.Lock()
	var old []*directConn
	next := time.Duration(-1)
	for to, conns := range p.conns {
		// The oldest are in front.
		n := 0
		for n < len(conns) && time.Since(conns[n].idleSince) >= p.timeout {
			n++
		}
		old = append(old, conns[:n]...)
		if conns = append(conns[:0:0], conns[n:]...); len(conns) == 0 {
			delete(p.conns, to)
			continue
		}
		p.conns[to] = conns
		if wait := p.timeout - time.Since(conns[0].idleSince); next < 0 || wait < next {
			next = wait
		}
	}
	if next < 0 {
		p.timer = nil
	} else {
		p.timer.Reset(next)
	}
	p.mu.Unlock()
	for _, c := range old {
		c.conn.Close()
	}
}

func (p *idleConns) closeAll() {
	p.mu.Lock()
	all := p.conns
	p.conns = nil
	p.epoch++
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	for _, conns := range all {
		for _, c := range conns {
			c.conn.Close()
		}
	}
}
