package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session/sticky"
)

// writeCertificate makes a certificate that is its own authority.
func writeCertificate(t *testing.T, cert, key string) *x509.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: serial.String()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kder}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// clientFor trusts this certificate alone, and opens a connection a request.
func clientFor(c *x509.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(c)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
}

func testProxy(t *testing.T) *sticky.Proxy {
	p, err := sticky.New(nil, &sticky.Options{Logger: slog.New(slog.DiscardHandler), Observer: observe})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Shutdown(t.Context()) })
	return p
}

func TestAdminElsewhere(t *testing.T) {
	var stopping atomic.Bool
	for _, tt := range []struct {
		why, at string
		hosts   []string
		host    string
		acts    bool
		code    int // of the status page
	}{
		{"loopback", "127.0.0.1:9090", nil, "127.0.0.1:9090", true, 200},
		{"loopback, IPv6", "[::1]:9090", nil, "[::1]:9090", true, 200},
		{"localhost", "127.0.0.1:9090", nil, "LocalHost:9090", true, 200},
		{"every address", "[::]:9090", nil, "192.0.2.1:9090", false, 200},
		{"another machine's", "192.0.2.1:9090", nil, "192.0.2.1", false, 200},
		{"a name", "127.0.0.1:9090", nil, "lb.example:9090", true, 421},
		{"a name that was given", "127.0.0.1:9090", []string{"LB.example"}, "lb.example:9090", true, 200},
		{"no name", "127.0.0.1:9090", nil, "", true, 421},
	} {
		h := newAdmin(testProxy(t), net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.at)), tt.hosts, &stopping)
		ask := func(method, path string) int {
			r := httptest.NewRequest(method, path, strings.NewReader("mode=slowly"))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Host = tt.host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		if code := ask("GET", "/-/status"); code != tt.code {
			t.Errorf("%s: status page %d; want %d", tt.why, code, tt.code)
		}
		want := tt.code
		if want == 200 {
			want = map[bool]int{true: 400, false: 404}[tt.acts] // no such mode, no such page
		}
		if code := ask("POST", "/-/drain"); code != want {
			t.Errorf("%s: drain %d; want %d", tt.why, code, want)
		}
	}
}

func TestStatusEscapes(t *testing.T) {
	p := testProxy(t)
	c, err := sticky.ParseConfig([]byte(`{"nodes":[{"id":"<script>alert(1)</script>","url":"http://h"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(c); err != nil {
		t.Fatal(err)
	}
	var stopping atomic.Bool
	h := newAdmin(p, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, nil, &stopping)
	ask := func(path, accept string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.Host = "127.0.0.1"
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if body := ask("/-/status", "text/html").Body.String(); strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;") || !strings.Contains(body, "</html>") {
		t.Errorf("the page is\n%s", body)
	}
	for accept, want := range map[string]string{"": "application/json", "*/*": "application/json", "application/json, text/html": "application/json", "text/html, application/json": "text/html; charset=utf-8"} {
		if got := ask("/-/status", accept).Header().Get("Content-Type"); got != want {
			t.Errorf("Accept %q: %s; want %s", accept, got, want)
		}
	}
	if code := ask("/-/health", "").Code; code != 200 {
		t.Errorf("health: %d", code)
	}
	stopping.Store(true)
	if code := ask("/-/health", "").Code; code != 503 {
		t.Errorf("health while stopping: %d; want 503", code)
	}
}

func TestCombinedLog(t *testing.T) {
	var out bytes.Buffer
	h := accessLog(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		observe(r, sticky.Outcome{Node: "a", Client: netip.MustParseAddr("203.0.113.9")})
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "hello")
	}), &out, "combined")
	r := httptest.NewRequest("GET", "/x?y=1", nil)
	r.Header.Set("User-Agent", "evil\" 200 \n1.1.1.1")
	r.Header.Set("Cookie", "session=secret")
	h.ServeHTTP(httptest.NewRecorder(), r)
	line := out.String()
	if !strings.HasPrefix(line, "203.0.113.9 - - [") || !strings.HasSuffix(line, `] "GET /x?y=1 HTTP/1.1" 418 5 "-" "evil\" 200 \n1.1.1.1" "a"`+"\n") || strings.Count(line, "\n") != 1 {
		t.Errorf("%q", line)
	}
}

// A connection that is broken on purpose is broken, and logged.
func TestLogOfBrokenConnections(t *testing.T) {
	var out bytes.Buffer
	h := accessLog(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }), &out, "json")
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("recovered %v; want ErrAbortHandler", v)
		}
		if !strings.Contains(out.String(), `"aborted":true`) {
			t.Errorf("%s", out.String())
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}
