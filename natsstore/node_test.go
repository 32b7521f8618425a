package natsstore_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/natsstore"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

func TestNodeOptions(t *testing.T) {
	three := []string{"127.0.0.1:6221", "127.0.0.1:6222", "127.0.0.1:6223"}
	far := []string{"10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222"}
	trust := newAuthority(t).tls(t)
	for _, tt := range []struct {
		name string
		opts natsstore.NodeOptions
		want string // in the mend
	}{
		{"nothing", natsstore.NodeOptions{}, "Dir is required"},
		{"two voters", natsstore.NodeOptions{Name: "a", Listen: three[0], Voters: three[:2]}, "name 1, 3 or 5"},
		{"four voters", natsstore.NodeOptions{Name: "a", Listen: three[0], Voters: append(three[:3:3], "127.0.0.1:6224")}, "name 1, 3 or 5"},
		{"six voters", natsstore.NodeOptions{Name: "a", Voters: append(three[:3:3], far...)}, "name 1, 3 or 5"},
		{"a voter twice", natsstore.NodeOptions{Name: "a", Listen: three[0], Voters: []string{three[0], three[0], three[1]}}, "twice"},
		{"a voter without a port", natsstore.NodeOptions{Name: "a", Listen: three[0], Voters: []string{"localhost"}}, "host:port"},
		{"no name", natsstore.NodeOptions{Listen: three[0], Voters: three}, "Name is required"},
		{"a name with a space", natsstore.NodeOptions{Name: "node 1", Listen: three[0], Voters: three}, "Name is required"},
		{"no address", natsstore.NodeOptions{Name: "a", Voters: three, Durability: natsstore.Memory}, "Listen is required"},
		{"an address that no other node has", natsstore.NodeOptions{Name: "a", Listen: "127.0.0.1:1", Voters: three, Durability: natsstore.Memory}, "Advertise"},
		{"alone, with an address", natsstore.NodeOptions{Listen: three[0], Durability: natsstore.Memory}, "alone"},
		{"a cacher without voters", natsstore.NodeOptions{Name: "c", Role: natsstore.Cacher, Listen: three[0]}, "3 or 5"},
		{"a cacher among the voters", natsstore.NodeOptions{Name: "c", Role: natsstore.Cacher, Listen: three[0], Voters: three}, "leave it out"},
		{"no directory", natsstore.NodeOptions{Name: "a", Listen: three[0], Voters: three, Durability: natsstore.FileSync}, "Dir is required"},
		{"a short secret", natsstore.NodeOptions{Durability: natsstore.Memory, Secret: []byte("secret")}, "openssl rand"},
		{"another machine, without a secret", natsstore.NodeOptions{Name: "a", Listen: far[0], Voters: far, Durability: natsstore.Memory, TLS: trust}, "Secret and TLS"},
		{"another machine, without TLS", natsstore.NodeOptions{Name: "a", Listen: far[0], Voters: far, Durability: natsstore.Memory, Secret: secret}, "Secret and TLS"},
		{"every address of this machine", natsstore.NodeOptions{Name: "a", Listen: "0.0.0.0:6221", Advertise: three[0], Voters: three, Durability: natsstore.Memory}, "Secret and TLS"},
		{"one voter elsewhere", natsstore.NodeOptions{Name: "a", Listen: three[0], Voters: []string{three[0], three[1], far[2]}, Durability: natsstore.Memory}, "Secret and TLS"},
		{"a name that may lead anywhere", natsstore.NodeOptions{Name: "a", Listen: "localhost.example.org:6222", Voters: []string{"localhost.example.org:6222", three[1], three[2]}, Durability: natsstore.Memory}, "Secret and TLS"},
		{"TLS without a certificate", natsstore.NodeOptions{Name: "a", Listen: far[0], Voters: far, Durability: natsstore.Memory, Secret: secret, TLS: &tls.Config{RootCAs: trust.RootCAs}}, "Certificates"},
		{"TLS without an authority", natsstore.NodeOptions{Name: "a", Listen: far[0], Voters: far, Durability: natsstore.Memory, Secret: secret, TLS: &tls.Config{Certificates: trust.Certificates}}, "RootCAs"},
		{"clients without a secret", natsstore.NodeOptions{Durability: natsstore.Memory, ClientListen: three[0]}, "takes a Secret"},
		{"clients elsewhere without TLS", natsstore.NodeOptions{Durability: natsstore.Memory, Secret: secret, ClientListen: "0.0.0.0:4222"}, "takes TLS"},
	} {
		n, err := natsstore.StartNode(&tt.opts)
		if err == nil {
			n.Close()
		}
		wantErr(t, tt.name, err, session.ErrConfig)
		if !contains(err, tt.want) || contains(err, string(secret)) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

func TestOptions(t *testing.T) {
	n := startNodes(t, 1)[0]
	for name, opts := range map[string]natsstore.Options{
		"a dot in the bucket":   {Bucket: "a.b"},
		"a star in the bucket":  {Bucket: "*"},
		"a long bucket":         {Bucket: strings.Repeat("b", 65)},
		"replicas of a node":    {Replicas: 3},
		"memory of a node":      {Memory: true},
		"an unknown choice":     {Consistency: 2},
		"a bound that is short": {MaxStale: time.Millisecond},
	} {
		_, err := n.Open(&opts)
		wantErr(t, name, err, session.ErrConfig)
	}
}

// A node that cannot start says why at once.
func TestStartFails(t *testing.T) {
	port := "127.0.0.1:" + servers.FreePort(t)
	l, err := net.Listen("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	voters := []string{port, "127.0.0.1:1", "127.0.0.1:2"}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opts natsstore.NodeOptions
		want string
	}{
		{"the cluster's port is taken", natsstore.NodeOptions{Name: "a", Listen: port, Voters: voters, Durability: natsstore.Memory}, "in use"},
		{"the clients' port is taken", natsstore.NodeOptions{Durability: natsstore.Memory, ClientListen: port, Secret: secret}, "in use"},
		{"the directory is a file", natsstore.NodeOptions{Dir: file}, "directory"},
	} {
		n, err := natsstore.StartNode(&tt.opts)
		if err == nil {
			n.Close()
		}
		if !contains(err, tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

// A node that is alone remembers what it was told to.
func TestRestart(t *testing.T) {
	for _, d := range []natsstore.Durability{natsstore.File, natsstore.FileSync} {
		opts := natsstore.NodeOptions{Dir: t.TempDir(), Durability: d}
		n := startNode(t, &opts)
		s := open(t, n, nil)
		rec, token := create(t, s, "ann")
		ended, endedToken := create(t, s, "ann")
		if err := s.Delete(t.Context(), ended.ID); err != nil {
			t.Fatal(err)
		}
		n.Close()
		s = open(t, startNode(t, &opts), &natsstore.Options{Consistency: natsstore.Local})
		if got := load(t, s, token); got.User != rec.User || got.Version != 1 {
			t.Errorf("%v: after a restart the session is %+v", d, got)
		}
		gone(t, s, endedToken, "after a restart")
	}
}

// Close leaves neither goroutines nor files.
func TestCloseLeavesNothing(t *testing.T) {
	startNodes(t, 1)[0].Close() // what the libraries start once and for all
	before := runtime.NumGoroutine()
	n := startNodes(t, 1)[0]
	dir := n.Dir()
	local := open(t, n, &natsstore.Options{Consistency: natsstore.Local})
	strong := open(t, n, nil)
	create(t, strong, "ann")
	if err := local.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	local.Close()
	if err := n.Close(); err != nil { // and strong with it
		t.Fatal(err)
	}
	_, err := strong.Load(t.Context(), session.NewToken())
	failed(t, "a load after Close", err)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	until(t, "the goroutines' end", func() bool { return runtime.NumGoroutine() <= before })
}

// A store that was opened by URL has its node. Whichever of the two is closed,
// or both at once, both end.
func TestCloseByURL(t *testing.T) {
	for _, tt := range []struct {
		name  string
		close []func(context.Context, session.Store, *natsstore.Node) error
	}{
		{"Shutdown of the node", []func(context.Context, session.Store, *natsstore.Node) error{
			func(ctx context.Context, _ session.Store, n *natsstore.Node) error { return n.Shutdown(ctx) },
		}},
		{"Close of the store", []func(context.Context, session.Store, *natsstore.Node) error{
			func(_ context.Context, s session.Store, _ *natsstore.Node) error { return session.Close(s) },
		}},
		{"both at once, more than once", []func(context.Context, session.Store, *natsstore.Node) error{
			func(_ context.Context, s session.Store, _ *natsstore.Node) error { return session.Close(s) },
			func(_ context.Context, _ session.Store, n *natsstore.Node) error { return n.Close() },
			func(ctx context.Context, _ session.Store, n *natsstore.Node) error { return n.Shutdown(ctx) },
			func(_ context.Context, s session.Store, _ *natsstore.Node) error { return session.Close(s) },
		}},
	} {
		s, err := session.Open(t.Context(), "nats+embedded:?durability=memory&consistency=local")
		if err != nil {
			t.Fatal(err)
		}
		store, ok := session.As[*natsstore.Store](s)
		if !ok {
			t.Fatalf("%T", s)
		}
		n := store.Node()
		ended := make(chan error)
		for _, f := range tt.close {
			go func() { ended <- f(t.Context(), s, n) }()
		}
		for range tt.close {
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("%s: %v", tt.name, err)
				}
			case <-time.After(patience):
				t.Fatalf("%s: does not end", tt.name)
			}
		}
		if _, err := os.Stat(n.Dir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %s is left: %v", tt.name, n.Dir(), err)
		}
		_, err = store.Load(t.Context(), session.NewToken())
		failed(t, tt.name+": a load afterwards", err)
	}
}

// A cacher joins, keeps a copy, and saves through the voters. Without it they go
// on.
func TestCacher(t *testing.T) {
	many(t)
	var addrs []string
	nodes := startNodes(t, 3, func(o *natsstore.NodeOptions) { addrs = o.Voters })
	c := startNode(t, &natsstore.NodeOptions{Name: "cacher", Role: natsstore.Cacher, Listen: "127.0.0.1:" + servers.FreePort(t), Voters: addrs})
	cacher, err := c.Open(&natsstore.Options{Consistency: natsstore.Local}) // it does not make the bucket
	if err != nil {
		t.Fatal(err)
	}
	defer cacher.Close()
	voter := open(t, nodes[0], nil)
	if err := cacher.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, token := create(t, cacher, "ann")
	rec := load(t, voter, token)
	rec.Data = []byte(`{"n":2}`)
	save(t, voter, rec)
	if err := cacher.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := load(t, cacher, token); got.Version != 2 {
		t.Errorf("the cacher has version %d", got.Version)
	}
	st := cacher.Status(t.Context())
	if st.Node != "cacher" || st.Role != natsstore.Cacher || st.Ready != nil || st.Sessions != 1 || st.Stale < 0 || st.Stale > 5*time.Second ||
		len(st.Voters) != 3 || !st.Voters[0].Leader || st.Voters[0].Name != st.Leader || st.Sequence == 0 || st.LastSeq < st.Sequence {
		t.Errorf("the cacher's status is %+v", st)
	}
	for _, v := range st.Voters {
		if v.Name == "cacher" {
			t.Error("the cacher votes")
		}
	}
	if err := c.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown of the cacher: %v", err)
	}
	save(t, voter, load(t, voter, token))
}

// A voter that is stopped hands over what it leads, so that no call of another
// node fails; one that the others cannot do without goes on.
func TestShutdown(t *testing.T) {
	many(t)
	nodes := startNodes(t, 3)
	var stores []*natsstore.Store
	for _, n := range nodes {
		stores = append(stores, open(t, n, &natsstore.Options{Consistency: natsstore.Local}))
	}
	leader := -1
	until(t, "a leader", func() bool {
		for i, n := range nodes {
			if n.Leads("sessions") {
				leader = i
			}
		}
		return leader >= 0
	})
	other, third := (leader+1)%3, (leader+2)%3
	rec, token := create(t, stores[other], "ann")
	ctx, stop := context.WithCancel(t.Context())
	saves := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			call, cancel := context.WithTimeout(t.Context(), 3*time.Second) // a manager's commit with its replays
			rec, err := stores[other].Load(call, token)
			if err == nil {
				_, err = stores[other].Save(call, rec)
			}
			cancel()
			if err != nil {
				t.Errorf("after %d saves: %v", saves, err)
				return
			}
			saves++
		}
	})
	if err := nodes[leader].Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown of the leader: %v", err)
	}
	stop()
	wg.Wait()
	if got := load(t, stores[other], token); got.Version != int64(saves)+1 {
		t.Errorf("%d saves made version %d", saves, got.Version)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := nodes[third].Shutdown(short)
	wantErr(t, "Shutdown of one of two", err, context.DeadlineExceeded)
	if !contains(err, "without this node") {
		t.Errorf("Shutdown of one of two: %v", err)
	}
	if _, err := stores[third].LoadAtLeast(t.Context(), token, rec.Version); err != nil {
		t.Errorf("the node that was not stopped: %v", err)
	}
}

// The first start takes all voters, and a node that waits for one says so:
// wherever it is asked, and once in its log.
func TestFirstStart(t *testing.T) {
	many(t)
	t.Parallel()
	var addrs []string
	for range 3 {
		addrs = append(addrs, "127.0.0.1:"+servers.FreePort(t))
	}
	log, text := newLog(slog.LevelWarn)
	start := func(i int) *natsstore.Node {
		return startNode(t, &natsstore.NodeOptions{
			Name: fmt.Sprint("n", i), Listen: addrs[i], Voters: addrs, Durability: natsstore.Memory, Logger: log,
		})
	}
	start(1)
	s, err := start(0).Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	const missing = "all 3 must be up"
	until(t, "a node that says what it waits for", func() bool { return contains(s.Ready(t.Context()), missing) })
	w := httptest.NewRecorder()
	s.ReadyHandler().ServeHTTP(w, httptest.NewRequest("GET", "/ready", nil))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), missing) {
		t.Errorf("the handler says %d %s", w.Code, w.Body)
	}
	_, err = s.Load(t.Context(), session.NewToken())
	failed(t, "a load", err)
	if !contains(err, missing) {
		t.Errorf("a load: %v", err)
	}
	if !strings.Contains(text(), missing) {
		t.Errorf("the log does not say it:\n%s", text())
	}
	start(2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	create(t, s, "ann")
}

func TestReadyHandler(t *testing.T) {
	n := startNodes(t, 1)[0]
	s := open(t, n, &natsstore.Options{Consistency: natsstore.Local})
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ReadyHandler().ServeHTTP(w, httptest.NewRequest("GET", "/ready", nil))
		return w
	}
	if w := get(); w.Code != http.StatusOK || w.Body.String() != "ready\n" {
		t.Errorf("a ready node: %d %s", w.Code, w.Body)
	}
	n.Close()
	until(t, "a 503", func() bool { return get().Code == http.StatusServiceUnavailable })
}

// intruder is a server that wants to join, and what it was told.
type intruder struct {
	*server.Server
	mu  sync.Mutex
	log []string
}

func (i *intruder) put(format string, v ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.log = append(i.log, fmt.Sprintf(format, v...))
}

func (i *intruder) Noticef(format string, v ...any) { i.put(format, v...) }
func (i *intruder) Warnf(format string, v ...any)   { i.put(format, v...) }
func (i *intruder) Fatalf(format string, v ...any)  { i.put(format, v...) }
func (i *intruder) Errorf(format string, v ...any)  { i.put(format, v...) }
func (i *intruder) Debugf(format string, v ...any)  { i.put(format, v...) }
func (i *intruder) Tracef(format string, v ...any)  { i.put(format, v...) }

func (i *intruder) told(text string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return strings.Contains(strings.ToLower(strings.Join(i.log, "\n")), text)
}

// The ports of a cluster let nobody in who lacks the secret or a certificate.
func TestPortsLetNobodyElseIn(t *testing.T) {
	many(t)
	ours, theirs := newAuthority(t), newAuthority(t)
	client := "127.0.0.1:" + servers.FreePort(t)
	var addrs []string
	nodes := startNodes(t, 3, func(o *natsstore.NodeOptions) {
		if o.Name == "n0" {
			o.ClientListen = client
		}
		o.Secret, o.TLS, addrs = secret, ours.tls(t), o.Voters
	})
	s := open(t, nodes[0], nil)
	_, token := create(t, s, "ann")
	routes := nodes[0].Routes()
	password := func(secret []byte) *url.Userinfo { return url.UserPassword("session", natsstore.RoutePassword(secret)) }
	clientPassword := func(secret []byte) *url.Userinfo { return url.UserPassword(natsstore.Credentials(secret)) }
	for _, tt := range []struct {
		name string
		tls  *tls.Config
		user *url.Userinfo
		told string
	}{
		{"no TLS", nil, password(secret), "connection closed"},
		{"TLS, without a certificate", &tls.Config{RootCAs: ours.pool}, password(secret), "tls"},
		{"another authority's certificate", &tls.Config{RootCAs: ours.pool, Certificates: theirs.tls(t).Certificates}, password(secret), "tls"},
		{"a certificate, without the secret", ours.tls(t), nil, "authorization"},
		{"a certificate and another secret", ours.tls(t), password([]byte(strings.Repeat("x", 32))), "authorization"},
		{"a certificate and a client's password", ours.tls(t), clientPassword(secret), "authorization"},
	} {
		o := &server.Options{ServerName: "intruder", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true}
		o.Cluster = server.ClusterOpts{Name: "session", Host: "127.0.0.1", Port: server.RANDOM_PORT, TLSConfig: tt.tls, TLSTimeout: 2}
		o.Routes = []*url.URL{{Scheme: "nats-route", Host: addrs[0], User: tt.user}}
		srv, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		i := &intruder{Server: srv}
		srv.SetLogger(i, true, false)
		srv.Start()
		until(t, tt.name+": a refusal", func() bool { return i.told(tt.told) })
		// It believes that it has one until it hears of the refusal.
		until(t, tt.name+": no route", func() bool { return srv.NumRoutes() == 0 })
		if n := nodes[0].Routes(); n > routes {
			t.Errorf("%s: the node has %d routes, had %d", tt.name, n, routes)
		}
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	if n := nodes[0].Routes(); n != routes {
		t.Errorf("the node has %d routes, had %d", n, routes)
	}
	c := startNode(t, &natsstore.NodeOptions{ // who has both is let in
		Name: "cacher", Role: natsstore.Cacher, Listen: "127.0.0.1:" + servers.FreePort(t), Voters: addrs, Secret: secret, TLS: ours.tls(t),
	})
	load(t, open(t, c, nil), token)

	clientTLS := nats.Secure(&tls.Config{RootCAs: ours.pool})
	name, pass := natsstore.Credentials(secret)
	for _, tt := range []struct {
		name string
		addr string
		opts []nats.Option
	}{
		{"a client of the cluster's port", addrs[0], nil},
		{"a client of the cluster's port, with TLS and the password", addrs[0], []nats.Option{clientTLS, nats.UserInfo(name, pass)}},
		{"no password", client, []nats.Option{clientTLS}},
		{"another password", client, []nats.Option{clientTLS, nats.UserInfo(name, "guess")}},
		{"the secret itself", client, []nats.Option{clientTLS, nats.UserInfo(name, string(secret))}},
		{"the servers' password", client, []nats.Option{clientTLS, nats.UserInfo(name, natsstore.RoutePassword(secret))}},
		{"this process's name", client, []nats.Option{clientTLS, nats.UserInfo("process", "")}},
		{"another authority", client, []nats.Option{nats.Secure(&tls.Config{RootCAs: theirs.pool}), nats.UserInfo(name, pass)}},
	} {
		if nc, err := nats.Connect("nats://"+tt.addr, append(tt.opts, nats.Timeout(5*time.Second))...); err == nil {
			nc.Close()
			t.Errorf("%s: is let in", tt.name)
		}
	}
	nc, err := nats.Connect("nats://"+client, clientTLS, nats.UserInfo(name, pass), nats.Timeout(5*time.Second))
	if err != nil {
		t.Fatalf("who has the secret: %v", err)
	}
	defer nc.Close()
	outside, err := natsstore.New(t.Context(), nc, &natsstore.Options{Memory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	load(t, outside, token)
}

// What the server logs goes to the logger, and shows no password.
func TestLog(t *testing.T) {
	log, text := newLog(slog.LevelDebug)
	addrs := []string{"127.0.0.1:" + servers.FreePort(t), "127.0.0.1:" + servers.FreePort(t), "127.0.0.1:" + servers.FreePort(t)}
	n := startNode(t, &natsstore.NodeOptions{Name: "n0", Listen: addrs[0], Voters: addrs, Durability: natsstore.Memory, Secret: secret, Logger: log})
	until(t, "a line about the other voters", func() bool { return strings.Contains(text(), addrs[1]) })
	n.Close()
	_, client := natsstore.Credentials(secret)
	for _, pass := range []string{string(secret), natsstore.RoutePassword(secret), client} {
		if strings.Contains(text(), pass) {
			t.Errorf("the log shows a password:\n%s", text())
		}
	}
	if !strings.Contains(text(), "node=n0") {
		t.Errorf("the log does not say whose it is:\n%s", text())
	}
}

// newLog returns a logger, and what it has logged.
func newLog(least slog.Level) (log *slog.Logger, text func() string) {
	var all strings.Builder
	var mu sync.Mutex
	put := func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return all.Write(b)
	}
	return slog.New(slog.NewTextHandler(writer(put), &slog.HandlerOptions{Level: least})), func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
