// Package faults puts a TCP proxy between a store and its server, for the tests
// of what goes wrong on the way: a cable that is pulled, a connection that
// breaks, an answer that is lost after the server has done its work.
package faults

import (
	"context"
	"net"
	"sync"
	"testing"
)

// A Proxy passes everything on to one server until it is told otherwise.
type Proxy struct {
	// Addr is where clients connect.
	Addr string

	// Spare, if it is not nil, tells the answers that LoseNext must let pass: a
	// refusal, say, after which the client asks in another way, whose answer is
	// lost instead.
	Spare func(answer []byte) bool

	server string

	mu    sync.Mutex
	state state
	links map[*link]bool
	lose  int // answers to be lost
	match func(request []byte) bool
	then  func()
	lost  int
}

type state int

const (
	passing state = iota
	stalled
	broken
)

// link is a client's connection and the one to the server that goes with it.
type link struct {
	ctx    context.Context // until it is closed
	close  context.CancelFunc
	losing bool // its next answer; under Proxy.mu
}

// NewProxy starts a proxy in front of server, a host and port. It ends with
// the test.
func NewProxy(t testing.TB, server string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), server: server, links: map[*link]bool{}}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		p.set(broken)
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(client) })
		}
	})
	return p
}

// Stall makes every connection half-open: those that are there and those that
// come stay open, and nothing passes any more.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = stalled
}

// Cut breaks every connection, and those that come.
func (p *Proxy) Cut() { p.set(broken) }

// Heal lets new connections pass again. Those that were stalled break, as after
// a server's restart.
func (p *Proxy) Heal() { p.set(passing) }

func (p *Proxy) set(s state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != passing || s == broken {
		for k := range p.links {
			k.close()
		}
	}
	p.state = s
}

// LoseNext makes the answers to the next n requests that match vanish: the
// server gets the request and answers, then is called (if it is not nil), and
// the client's connection breaks. A request is what one read of the connection
// brings. The count of Lost begins again.
func (p *Proxy) LoseNext(n int, match func(request []byte) bool, then func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.match, p.then, p.lost = n, match, then, 0
}

// Lost is how many answers have vanished since LoseNext. An answer counts after
// then has run.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	k := p.enter()
	defer p.leave(k)
	defer context.AfterFunc(k.ctx, func() { client.Close() })()
	if !p.pass(k) {
		return
	}
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	defer context.AfterFunc(k.ctx, func() { server.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer k.close()
		p.copy(k, server, client, p.request)
	})
	defer k.close()
	p.copy(k, client, server, p.answer)
}

func (p *Proxy) enter() *link {
	k := &link{}
	k.ctx, k.close = context.WithCancel(context.Background())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[k] = true
	if p.state == broken {
		k.close()
	}
	return k
}

func (p *Proxy) leave(k *link) {
	k.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, k)
}

// pass waits while the proxy is stalled, which a link does not outlive, and
// tells whether it is still there.
func (p *Proxy) pass(k *link) bool {
	p.mu.Lock()
	stalled := p.state == stalled
	p.mu.Unlock()
	if stalled {
		<-k.ctx.Done()
	}
	return k.ctx.Err() == nil
}

func (p *Proxy) copy(k *link, to, from net.Conn, look func(*link, []byte) bool) {
	b := make([]byte, 1<<16)
	for {
		n, err := from.Read(b)
		if err != nil || !p.pass(k) || !look(k, b[:n]) {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// request notes whether the answer to come is to be lost.
func (p *Proxy) request(k *link, b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	k.losing = k.losing || p.lose > 0 && p.match(b)
	return true
}

// answer tells whether an answer passes.
func (p *Proxy) answer(k *link, b []byte) bool {
	p.mu.Lock()
	k.losing = k.losing && p.lose > 0
	if !k.losing || p.Spare != nil && p.Spare(b) {
		p.mu.Unlock()
		return true
	}
	p.lose--
	then := p.then
	p.mu.Unlock()
	if then != nil {
		then()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost++ // after then: who sees it sees what then did
	return false
}
