package ignitestore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/ignitestore"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/servers"
)

func TestURL(t *testing.T) {
	t.Setenv("IGNITE_PASSWORD", "hunter2")
	for _, tt := range []struct {
		url     string
		members string
		want    ignitestore.Options
		tls     bool
	}{
		{"ignite://h", "h:10800", ignitestore.Options{}, false},
		{"IGNITE://h1,h2:1/carts", "h1:10800 h2:1", ignitestore.Options{Cache: "carts"}, false},
		{"ignite://?addr=[::1]:10800&addr=h", "[::1]:10800 h:10800", ignitestore.Options{}, false},
		{"ignite://h/c?prefix=shop:&timeout=300ms&max_item=50000", "h:10800",
			ignitestore.Options{Cache: "c", Prefix: "shop:", Timeout: 300 * time.Millisecond, MaxItem: 50000}, false},
		{"ignites://h/?server_name=x", "h:10800", ignitestore.Options{}, true},
		{"ignite://h?username=u&password=env:IGNITE_PASSWORD", "h:10800", ignitestore.Options{Username: "u", Password: "hunter2"}, false},
		{"ignite://u:p%40@h", "h:10800", ignitestore.Options{Username: "u", Password: "p@"}, false},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		addrs, opts, err := ignitestore.ParseURL(u)
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if hasTLS := opts.TLS != nil; hasTLS != tt.tls {
			t.Errorf("%s: TLS is %v", tt.url, hasTLS)
		}
		opts.TLS = nil
		if got := strings.Join(addrs, " "); got != tt.members || fmt.Sprint(*opts) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %s, %+v; want %s, %+v", tt.url, got, *opts, tt.members, tt.want)
		}
	}
}

func TestURLErrors(t *testing.T) {
	const secret = "hunter2"
	for _, tt := range []struct{ url, mend string }{
		{"ignite://", "ignite://localhost:10800"},
		{"ignite:h", "ignite://host"},
		{"ignite://h/a/b", "name of the cache"},
		{"ignite://h/a%20b", "without spaces"},
		{"ignite://h,", "commas"},
		{"ignite://h,H:10800", "named twice"},
		{"ignite://h?backups=2", "known: addr, max_item, password, prefix, timeout, username"},
		{"ignite://h?ca=x", "known:"},
		{"ignite://h?max_item=10", "2048 to 33554432"},
		{"ignite://h?max_item=33554433", "2048 to 33554432"},
		{"ignite://h?prefix=" + strings.Repeat("p", 200), "at most 150"},
		{"ignite://h?username=u", "password=env:NAME"},
		{"ignite://h?username=u&password=" + secret, "env:NAME or file:PATH"},
		{"ignites://h?ca=/not/there", "ca: the file"},
		{"ignite://u:12/" + secret + "@h", "%2F"},
		{"ignite://u:12?" + secret + "@h", "%3F"},
		{"ignite://u:" + secret + "@h,", "commas"},
	} {
		s, err := session.Open(t.Context(), tt.url)
		wantErr(t, tt.url, err, session.ErrConfig)
		if s != nil || err != nil && (!contains(err, tt.mend) || contains(err, secret)) {
			t.Errorf("%s: %v; want %q in it and no password", tt.url, err, tt.mend)
		}
	}
	for name, opts := range map[string]ignitestore.Options{"negative": {Timeout: -1}, "a user alone": {Username: "u"}} {
		_, err := ignitestore.New([]string{"h:1"}, &opts)
		wantErr(t, name, err, session.ErrConfig)
	}
	_, err := ignitestore.New(nil, nil)
	wantErr(t, "no members", err, session.ErrConfig)
}

// Open says at once what sessions must not be kept in, and how to mend it.
func TestOpenRefuses(t *testing.T) {
	fit := fakeCache{mode: 2, atomicity: 1, backups: 1, eagerTTL: true}
	change := func(f func(*fakeCache)) *fakeCache { c := fit; f(&c); return &c }
	web := listen(t, func(c net.Conn) {
		c.Read(make([]byte, 100))
		fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
	})
	for _, tt := range []struct {
		name, addrs, mend string // mend "": it is opened
	}{
		{"a fit cache", newFake(t, fakeConf{cache: change(func(*fakeCache) {})}).Addrs[0], ""},
		{"a replicated one", newFake(t, fakeConf{cache: change(func(c *fakeCache) { c.mode, c.backups = 1, 0 })}).Addrs[0], ""},
		{"no backups", newFake(t, fakeConf{cache: change(func(c *fakeCache) { c.backups = 0 })}).Addrs[0], "set backups to 1"},
		{"acknowledged early", newFake(t, fakeConf{cache: change(func(c *fakeCache) { c.sync = 2 })}).Addrs[0], "FULL_SYNC"},
		{"its own end at writes", newFake(t, fakeConf{cache: change(func(c *fakeCache) { c.policy = []int64{1000, 1000, -2} })}).Addrs[0], ""},
		{"its own end at reads", newFake(t, fakeConf{cache: change(func(c *fakeCache) { c.policy = []int64{-2, -2, 1000} })}).Addrs[0], "expiryPolicyFactory"},
		{"no password", newFake(t, fakeConf{user: "app", password: "right"}).Addrs[0], "give username"},
		{"a wrong password", "app:wrong-horse@" + newFake(t, fakeConf{user: "app", password: "right"}).Addrs[0], "check username"},
		{"another version", newFake(t, fakeConf{refuse: true}).Addrs[0], "2.8 or later"},
		{"a web server", web, "check host and port"},
		{"two clusters", newFake(t, fakeConf{}).Addrs[0] + "," + newFake(t, fakeConf{}).Addrs[0], "members of one"},
		{"one that is down, one without backups", "127.0.0.1:1," + newFake(t, fakeConf{cache: change(func(c *fakeCache) { c.backups = 0 })}).Addrs[0], "set backups to 1"},
	} {
		s, err := session.Open(t.Context(), "ignite://"+tt.addrs)
		switch {
		case tt.mend == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.mend == "":
			session.Close(s)
		case !errors.Is(err, session.ErrConfig) || !contains(err, tt.mend) || contains(err, "horse"):
			t.Errorf("%s: %v; want ErrConfig with %q", tt.name, err, tt.mend)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cache fakeCache
		want  string
	}{
		{"reads from backups", fakeCache{mode: 2, atomicity: 1, backups: 1, eagerTTL: true, readFromBackup: true}, "readFromBackup"},
		{"lazy expiry", fakeCache{mode: 2, atomicity: 1, backups: 1}, "eagerTtl"},
		{"transactional", fakeCache{mode: 2, backups: 1, eagerTTL: true}, "ATOMIC is enough"},
	} {
		s := newStore(t, newFake(t, fakeConf{cache: &tt.cache}).Addrs, ignitestore.Options{})
		if err := s.Check(t.Context()); err == nil || !contains(err, tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
	f := newFake(t, fakeConf{members: 2})
	if err := newStore(t, f.Addrs, ignitestore.Options{}).Check(t.Context()); err != nil {
		t.Errorf("all is well: %v", err)
	}
	if n := f.size(); n != 0 {
		t.Errorf("Check leaves %d entries", n)
	}
}

// A cluster that does not answer yet is no reason not to start.
func TestOpenEarly(t *testing.T) {
	proxy := faults.NewProxy(t, newFake(t, fakeConf{}).Addrs[0])
	proxy.Cut()
	s, err := session.Open(t.Context(), "ignite://"+proxy.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(s)
	_, err = s.Load(t.Context(), session.NewToken())
	failed(t, "load", err)
	proxy.Heal()
	servers.Wait(t, "an answer", 10*time.Second, func(ctx context.Context) error {
		if _, err := s.Load(ctx, session.NewToken()); !errors.Is(err, session.ErrNotFound) {
			return fmt.Errorf("load: %w", err)
		}
		return nil
	})
}

// A real cluster that asks for a password.
func TestPassword(t *testing.T) {
	addr := servers.Ignite(t, 1, servers.IgniteOptions{Password: true}).Members[0].Addr
	t.Setenv("IGNITE_PASSWORD", servers.IgnitePassword)
	s, err := session.Open(t.Context(), "ignite://"+addr+"?timeout=10s&password=env:IGNITE_PASSWORD&username="+servers.IgniteUser)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(s)
	_, token := create(t, s, "ann")
	save(t, s, load(t, s, token))
	for _, tt := range []struct{ name, url, mend string }{
		{"wrong", "ignite://" + servers.IgniteUser + ":wrong-horse@" + addr, "check username"},
		{"none", "ignite://" + addr, "give username"},
	} {
		_, err := session.Open(t.Context(), tt.url)
		wantErr(t, tt.name, err, session.ErrConfig)
		if err != nil && (!contains(err, tt.mend) || contains(err, "horse")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A real member that speaks TLS, to clients with a certificate.
func TestTLS(t *testing.T) {
	cert, key := certificate(t, t.TempDir())
	cluster := servers.Ignite(t, 1, servers.IgniteOptions{ClientCert: cert})
	addr := cluster.Members[0].Addr
	s, err := session.Open(t.Context(), "ignites://"+addr+"?timeout=10s&ca="+cluster.CA+"&cert="+cert+"&key="+key)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(s)
	_, token := create(t, s, "ann")
	save(t, s, load(t, s, token))
	for name, rawURL := range map[string]string{
		"no certificate":       "ignites://" + addr + "?ca=" + cluster.CA,
		"an unknown authority": "ignites://" + addr + "?cert=" + cert + "&key=" + key,
		"in clear":             "ignite://" + addr + "?timeout=500ms",
	} {
		s, err := session.Open(t.Context(), rawURL)
		if err != nil { // the server's answer in clear may be told apart
			wantErr(t, name, err, session.ErrConfig)
			continue
		}
		_, err = s.Load(t.Context(), token)
		failed(t, name, err)
		session.Close(s)
	}
}

// certificate writes one of a client.
func certificate(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert.pem", "CERTIFICATE", cert), write("key.pem", "PRIVATE KEY", der)
}
