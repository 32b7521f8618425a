package memcachedstore_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/memcachedstore"
)

func TestURL(t *testing.T) {
	t.Setenv("CACHE_PASSWORD", "hunter2")
	for _, tt := range []struct {
		url     string
		servers string
		want    memcachedstore.Options
		tls     bool
	}{
		{"memcached://h", "h:11211", memcachedstore.Options{}, false},
		{"MEMCACHED://h1,h2:1,h3:2", "h1:11211 h2:1 h3:2", memcachedstore.Options{}, false},
		{"memcached://?addr=[::1]:11211&addr=h", "[::1]:11211 h:11211", memcachedstore.Options{}, false},
		{"memcached://h/?prefix=shop:&timeout=300ms&pool_size=8&max_item=50000", "h:11211",
			memcachedstore.Options{Prefix: "shop:", Timeout: 300 * time.Millisecond, PoolSize: 8, MaxItem: 50000}, false},
		{"memcacheds://h?server_name=x", "h:11211", memcachedstore.Options{}, true},
		{"memcached://h?username=u&password=env:CACHE_PASSWORD", "h:11211", memcachedstore.Options{Username: "u", Password: "hunter2"}, false},
		{"memcached://u:p%40@h", "h:11211", memcachedstore.Options{Username: "u", Password: "p@"}, false},
		{"infinispan://h1,h2:7", "h1:11221 h2:7", memcachedstore.Options{Replicated: true}, false},
		{"infinispans://h", "h:11221", memcachedstore.Options{Replicated: true}, true},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		addrs, opts, err := memcachedstore.ParseURL(u)
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if hasTLS := opts.TLS != nil; hasTLS != tt.tls {
			t.Errorf("%s: TLS is %v", tt.url, hasTLS)
		}
		opts.TLS = nil
		if got := strings.Join(addrs, " "); got != tt.servers || fmt.Sprint(*opts) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %s, %+v; want %s, %+v", tt.url, got, *opts, tt.servers, tt.want)
		}
	}
}

func TestURLErrors(t *testing.T) {
	const secret = "hunter2"
	t.Setenv("CACHE_PASSWORD", secret)
	for _, tt := range []struct{ url, mend string }{
		{"memcached://", "memcached://localhost:11211"},
		{"infinispan://", "infinispan://localhost:11221"},
		{"memcached:h", "memcached://host"},
		{"memcached://h/0", "prefix=app1:"},
		{"memcached://h,", "commas"},
		{"memcached://h:0", "commas"},
		{"memcached://?addr=::1:11211", "[::1]:11211"},
		{"memcached://h,h", "named twice"},
		{"memcached://h,H:11211", "named twice"},
		{"memcached://h?replicas=2", "known: addr, max_item, password, pool_size, prefix, timeout, username"},
		{"memcached://h?ca=x", "known:"},
		{"memcached://h?timeout=fast", "duration"},
		{"memcached://h?max_item=10", "at least"},
		{"memcached://h?prefix=a%20b", "without spaces"},
		{"memcached://h?prefix=" + strings.Repeat("p", 200), "at most 150"},
		{"memcached://h?username=u", "password=env:NAME"},
		{"memcached://h?password=env:CACHE_PASSWORD", "belong together"},
		{"memcached://h?username=u&password=" + secret, "env:NAME or file:PATH"},
		{"memcached://u:" + secret + "@h?username=u", "keep the parameters"},
		{"memcached://u%20v:" + secret + "@h", "no spaces"},
		{"memcacheds://h?ca=/not/there", "ca: the file"},
		// A password whose special characters are not escaped.
		{"memcached://u:12/" + secret + "@h", "%2F"},
		{"memcached://u:12?" + secret + "@h", "%3F"},
		{"memcached://u:12#" + secret + "@h", "%23"},
		{"memcached://u:" + secret + "@h,", "commas"},
	} {
		s, err := session.Open(t.Context(), tt.url)
		wantErr(t, tt.url, err, session.ErrConfig)
		if s != nil || err != nil && (!contains(err, tt.mend) || contains(err, secret)) {
			t.Errorf("%s: %v; want %q in it and no password", tt.url, err, tt.mend)
		}
	}
}

func TestNewErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		servers []string
		opts    memcachedstore.Options
	}{
		"no servers":      {nil, memcachedstore.Options{}},
		"no port":         {[]string{"h"}, memcachedstore.Options{}},
		"no host":         {[]string{":11211"}, memcachedstore.Options{}},
		"negative":        {[]string{"h:1"}, memcachedstore.Options{Timeout: -1}},
		"negative pool":   {[]string{"h:1"}, memcachedstore.Options{PoolSize: -1}},
		"a user alone":    {[]string{"h:1"}, memcachedstore.Options{Username: "u"}},
		"a line end":      {[]string{"h:1"}, memcachedstore.Options{Username: "u", Password: "p\r\nflush_all"}},
		"a space":         {[]string{"h:1"}, memcachedstore.Options{Username: "u v", Password: "p"}},
		"two words":       {[]string{"h:1"}, memcachedstore.Options{Username: "u", Password: "p q"}},
		"a line's prefix": {[]string{"h:1"}, memcachedstore.Options{Prefix: "a\r\n"}},
	} {
		_, err := memcachedstore.New(tt.servers, &tt.opts)
		wantErr(t, name, err, session.ErrConfig)
	}
	s, err := memcachedstore.New([]string{"127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatalf("with nil options: %v", err)
	}
	_, err = s.Load(t.Context(), session.NewToken())
	failed(t, "a server that is not there", err)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// logs catches what is logged.
func logs(t *testing.T) *syncBuffer {
	b := &syncBuffer{}
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(b, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return b
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func open(t *testing.T, rawURL string) session.Store {
	t.Helper()
	s, err := session.Open(t.Context(), rawURL)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { session.Close(s) })
	return s
}

func TestPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	const secret = "correct-horse-battery-staple"
	if err := os.WriteFile(file, []byte("ann:"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := servers.Memcached(t, "-Y", file).Addr
	t.Setenv("CACHE_PASSWORD", secret)
	s := open(t, "memcached://"+addr+"?username=ann&password=env:CACHE_PASSWORD")
	_, token := create(t, s, "ann")
	save(t, s, load(t, s, token))
	for _, tt := range []struct{ name, url, mend string }{
		{"wrong", "memcached://ann:wrong-horse@" + addr, "user name or the password"},
		{"none", "memcached://" + addr, "password=env:NAME"},
	} {
		_, err := session.Open(t.Context(), tt.url)
		wantErr(t, tt.name, err, session.ErrConfig)
		if err != nil && (!contains(err, tt.mend) || contains(err, "horse")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := newStore(t, []string{addr}, memcachedstore.Options{}).Load(t.Context(), token); err == nil {
		t.Error("a session was read without the password")
	} else {
		failed(t, "load without the password", err)
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	addr := servers.Memcached(t, "-Z", "-o", "ssl_chain_cert="+cert+",ssl_key="+key).Addr
	s := open(t, "memcacheds://"+addr+"?ca="+cert)
	_, token := create(t, s, "ann")
	for range 10 { // idle connections are looked at beneath TLS
		save(t, s, load(t, s, token))
	}
	if err := s.(*memcachedstore.Store).Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	strange := open(t, "memcacheds://"+addr) // it may be that the certificate is yet to come
	_, err := strange.Load(t.Context(), token)
	failed(t, "an unknown authority", err)
	if err != nil && !contains(err, "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	clear := newStore(t, []string{addr}, memcachedstore.Options{Timeout: 200 * time.Millisecond})
	_, err = clear.Load(t.Context(), token)
	failed(t, "in clear", err)
}

// certificate writes one for 127.0.0.1 that is its own authority.
func certificate(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "memcached"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: der}}
	for name, block := range files {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
}
