package sticky_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/distsession/session/sticky"
)

func newProxy(t testing.TB, nodes []sticky.Node, o sticky.Options) *sticky.Proxy {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := sticky.New(nodes, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Shutdown(context.Background()) })
	return p
}

func parse(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// ways are how a Proxy reaches its nodes: what it promises, it promises over
// each.
var ways = []struct {
	name string
	set  func(testing.TB, *sticky.Options)
}{
	{"http.Transport", func(testing.TB, *sticky.Options) {}},
	{"direct", func(t testing.TB, o *sticky.Options) {
		d := sticky.NewDirectTransport(&sticky.DirectOptions{Dial: o.Dial, DialTimeout: o.DialTimeout, TLS: o.TLS, HeaderTimeout: o.HeaderTimeout, IdleTimeout: o.IdleTimeout})
		t.Cleanup(d.CloseIdleConnections)
		o.Transport = d
	}},
}

// eachWay runs a test over each; the test calls set when its options are
// complete.
func eachWay(t *testing.T, f func(t *testing.T, set func(testing.TB, *sticky.Options))) {
	t.Helper()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) { f(t, way.set) })
	}
}

// real is a node that listens on loopback.
func real(t testing.TB, id string, h http.Handler) sticky.Node {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return sticky.Node{ID: id, URL: parse(t, s.URL)}
}

// front serves h on loopback.
func front(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = quietLog
	s.Start()
	t.Cleanup(s.Close)
	return s
}

var quietLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)

// roundTripper is nodes that answer without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func response(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// sayNode answers with the host of the node.
var sayNode = roundTripper(func(r *http.Request) (*http.Response, error) { return response(200, r.URL.Host), nil })

func named(ids ...string) []sticky.Node {
	nodes := make([]sticky.Node, len(ids))
	for i, id := range ids {
		nodes[i] = sticky.Node{ID: id, URL: &url.URL{Scheme: "http", Host: id}}
	}
	return nodes
}

var unchecked = sticky.Health{Interval: -1}

// request made by hand, without a server in front.
func request(method, remote string, edit ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(method, "/", nil)
	r.RemoteAddr = remote
	for _, f := range edit {
		f(r)
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(final{w}, r)
	return w
}

// final passes 1xx over, which ResponseRecorder takes for the answer.
type final struct{ *httptest.ResponseRecorder }

func (w final) WriteHeader(code int) {
	if code >= 200 {
		w.ResponseRecorder.WriteHeader(code)
	}
}

// cluster is nodes on a network in memory, for tests in a bubble of
// testing/synctest: net/http's transport and server, with connections that are
// pipes and time that stands still while they wait.
type cluster struct {
	t     testing.TB
	way   func(testing.TB, *sticky.Options) // nil: as the options say
	mu    sync.Mutex
	hosts map[string]*member
}

type member struct {
	c      *cluster
	id     string
	state  memberState
	conns  chan net.Conn
	done   chan struct{}
	end    sync.Once
	open   []net.Conn
	server *http.Server
	mu     sync.Mutex
	h      http.Handler
	got    []string // requests: method and path
	health int      // status of /health
}

type memberState int

const (
	up      memberState = iota
	refuses             // connections
	silent              // packets are dropped
)

func newCluster(t testing.TB, ids ...string) *cluster {
	c := &cluster{t: t, hosts: map[string]*member{}}
	for _, id := range ids {
		c.add(id)
	}
	return c
}

func (c *cluster) add(id string) *member {
	m := &member{c: c, id: id, conns: make(chan net.Conn), done: make(chan struct{}), health: 200}
	m.h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, id) })
	m.server = &http.Server{Handler: m, ErrorLog: quietLog}
	c.mu.Lock()
	c.hosts[id+":80"] = m
	c.mu.Unlock()
	go m.server.Serve(m)
	c.t.Cleanup(func() { m.server.Close() })
	return m
}

func (c *cluster) at(id string) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts[id+":80"]
}

func (c *cluster) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.mu.Lock()
	m := c.hosts[addr]
	state := refuses
	if m != nil {
		state = m.state
	}
	c.mu.Unlock()
	switch state {
	case refuses:
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	case silent:
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	client, server := net.Pipe()
	c.mu.Lock()
	m.open = append(m.open, server)
	c.mu.Unlock()
	select {
	case m.conns <- server:
		return client, nil
	case <-m.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
}

// set changes the state; whoever does not stay up loses the connections, too.
func (m *member) set(s memberState) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	m.state = s
	if s != up {
		for _, c := range m.open {
			c.Close()
		}
		m.open = nil
	}
}

func (m *member) handle(f http.HandlerFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.h = f
}

func (m *member) setHealth(status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.health = status
}

// requests are those it got, without checks.
func (m *member) requests() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.got...)
}

func (m *member) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	h, health := m.h, m.health
	if r.URL.Path != "/health" {
		m.got = append(m.got, r.Method+" "+r.URL.Path)
	}
	m.mu.Unlock()
	if r.URL.Path == "/health" {
		w.WriteHeader(health)
		return
	}
	h.ServeHTTP(w, r)
}

// member is its own listener.

func (m *member) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

func (m *member) Close() error {
	m.end.Do(func() { close(m.done) })
	return nil
}

func (m *member) Addr() net.Addr { return &net.TCPAddr{} }

// proxy over the whole cluster.
func (c *cluster) proxy(o sticky.Options, ids ...string) *sticky.Proxy {
	o.Dial = c.dial
	if c.way != nil {
		c.way(c.t, &o)
	}
	c.t.Cleanup(func() { time.Sleep(time.Minute) }) // net/http's own dials end by themselves
	return newProxy(c.t, named(ids...), o)
}

func stateOf(t testing.TB, p *sticky.Proxy, id string) sticky.NodeStatus {
	t.Helper()
	for _, n := range p.Status().Nodes {
		if n.ID == id {
			return n
		}
	}
	t.Fatalf("no node %q in %v", id, p)
	return sticky.NodeStatus{}
}

// raw sends text to a server and returns what it answers until it closes the
// connection.
func raw(t testing.TB, addr, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(bufio.NewReader(c))
	return string(b)
}

// failDial is a dial that this machine cannot make.
func failDial() func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("socket", syscall.EMFILE)}
	}
}

// contextWithTimeout is canceled after d, as a server's is when the client goes.
func contextWithTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(d, cancel)
	return ctx, cancel
}
