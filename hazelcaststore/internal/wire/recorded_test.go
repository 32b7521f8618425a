package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session/hazelcaststore/internal/wire"
	"github.com/distsession/session/internal/servers"
)

var record = flag.Bool("record", false, "talk to a real member, and write down what is said")

const recording = "testdata/recorded.txt"

// limit is enough for every message here.
const limit = 1 << 20

func options(cluster string) wire.Options {
	return wire.Options{Cluster: cluster, Cache: "sessions", Limit: limit, KeepAlive: time.Hour}
}

// talk says to a member whatever there is to say, and returns what it hears.
func talk(ctx context.Context, addr, cluster string, config *tls.Config) ([]string, error) {
	var heard []string
	hear := func(what string, v any, err error) {
		if b, ok := v.([]byte); ok {
			v = fmt.Sprintf("%q", b)
		}
		text := fmt.Sprintf("%s: %v", what, v)
		if err != nil {
			text = fmt.Sprintf("%s: error %v", what, err)
		}
		heard = append(heard, text)
	}
	opts := options(cluster)
	opts.TLS = config
	c, err := wire.Dial(ctx, addr, opts)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	hear("partitions", c.Partitions(), nil)
	cache, err := c.CacheConfig(ctx)
	hear("configuration", fmt.Sprintf("%+v", cache), err)
	const key = "recorded:key"
	one, two := []byte("one"), []byte{0, 1, 2, 0xff}
	get := func(what string) {
		v, err := c.Get(ctx, key)
		hear(what, v, err)
	}
	get("get what is not there")
	done, err := c.PutIfAbsent(ctx, key, one, 90*time.Second)
	hear("create", done, err)
	done, err = c.PutIfAbsent(ctx, key, two, 90*time.Second)
	hear("create what is there", done, err)
	get("get")
	done, err = c.Replace(ctx, key, two, two, 90*time.Second)
	hear("replace another value", done, err)
	done, err = c.Replace(ctx, key, one, two, 90*time.Second)
	hear("replace", done, err)
	get("get")
	page, err := c.Keys(ctx, wire.Key(key).Partition(c.Partitions()), nil)
	hear("keys", page.Keys, err)
	hear("and no more", page.Next == nil, nil)
	done, err = c.Remove(ctx, key, one)
	hear("remove another value", done, err)
	done, err = c.Remove(ctx, key, two)
	hear("remove", done, err)
	done, err = c.Remove(ctx, key, nil)
	hear("remove what is not there", done, err)

	opts.User, opts.Password = "app", "secret" // which the open source edition refuses
	_, err = wire.Dial(ctx, addr, opts)
	hear("a user", nil, err)
	opts.User, opts.Password = "", ""
	opts.Cluster = "another"
	_, err = wire.Dial(ctx, addr, opts)
	hear("another cluster", nil, err)
	opts.Cluster, opts.Cache = cluster, "undeclared"
	_, err = wire.Dial(ctx, addr, opts)
	hear("another cache", nil, err)
	return heard, nil
}

var wantHeard = []string{
	"partitions: 271",
	"configuration: {Backups:1 AsyncBackups:0 Format:BINARY EvictionSize:2147483647 EvictionUnit:ENTRY_COUNT Expiry:Eternal}",
	`get what is not there: ""`,
	"create: true",
	"create what is there: false",
	`get: "one"`,
	"replace another value: false",
	"replace: true",
	`get: "\x00\x01\x02\xff"`,
	"keys: [recorded:key]",
	"and no more: true",
	"remove another value: false",
	"remove: true",
	"remove what is not there: false",
	"a user: error " + wire.ErrLogin.Error(),
	"another cluster: error " + wire.ErrLogin.Error(),
	"another cache: error " + wire.ErrNoCache.Error(),
}

// What a real member said; with -record, and a member there, it is asked again.
func TestRecorded(t *testing.T) {
	if *record {
		writeDown(t)
	}
	told := readRecording(t)
	for name, secure := range map[string]bool{"in clear": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			addr, config := replay(t, told, secure)
			heard, err := talk(t.Context(), addr, "recorded", config)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Join(heard, "\n"), strings.Join(wantHeard, "\n"); got != want {
				t.Errorf("heard:\n%s\nwant:\n%s", got, want)
			}
		})
	}
	t.Run("TLS with a certificate that nobody trusts", func(t *testing.T) {
		addr, _ := replay(t, told, true)
		_, err := talk(t.Context(), addr, "recorded", &tls.Config{})
		var refused *tls.CertificateVerificationError
		if !errors.As(err, &refused) {
			t.Errorf("%v; want the certificate to be refused", err)
		}
	})
}

// A said is one message, of the client or of the member. The client's first one
// on a connection begins it.
type said struct {
	client bool
	first  bool
	bytes  []byte
}

func (s said) String() string {
	switch {
	case s.first:
		return ">> " + hex.EncodeToString(s.bytes)
	case s.client:
		return "> " + hex.EncodeToString(s.bytes)
	}
	return "< " + hex.EncodeToString(s.bytes)
}

func readRecording(t testing.TB) (told []said) {
	t.Helper()
	text, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		mark, digits, ok := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(digits)
		if !ok || err != nil {
			t.Fatalf("%.40q: %v", line, err)
		}
		told = append(told, said{client: mark != "<", first: mark == ">>", bytes: b})
	}
	if len(told) < 30 {
		t.Fatalf("only %d messages are recorded", len(told))
	}
	return told
}

// anonymous takes out of a client's first message the random name that it gave
// itself.
func anonymous(b []byte) []byte {
	const at = 6 + 17
	b = bytes.Clone(b)
	clear(b[at : at+16])
	return b
}

// serve accepts connections until the test ends.
func serve(t testing.TB, handle func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				handle(c)
			})
		}
	})
	return l
}

// certificate is one for 127.0.0.1, and the configuration of a client that
// trusts it.
func certificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: pool}
}

// replay is a member that has learned its part by heart: it answers what it
// answered before, if it is asked what it was asked before.
func replay(t testing.TB, told []said, secure bool) (addr string, config *tls.Config) {
	t.Helper()
	var server *tls.Config
	if secure {
		server, config = certificate(t)
	}
	var turn sync.Mutex // one connection after the other
	at := 0
	l := serve(t, func(c net.Conn) {
		turn.Lock()
		defer turn.Unlock()
		if secure {
			c = tls.Server(c, server)
		}
		r := bufio.NewReader(c)
		if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
			return // it does not like the certificate
		}
		for began := false; at < len(told); at++ {
			switch next := told[at]; {
			case !next.client:
				if _, err := c.Write(next.bytes); err != nil {
					return
				}
			case next.first && began:
				return
			default:
				m, err := wire.ReadMessage(r, limit)
				if err != nil {
					return
				}
				b := m.Bytes()
				if next.first {
					b, began = anonymous(b), true
				}
				if !bytes.Equal(b, next.bytes) {
					t.Errorf("message %d:\n%x\nwas recorded as\n%x", at, b, next.bytes)
					return
				}
			}
		}
	})
	return l.Addr().String(), config
}

// writeDown records what is said through a proxy in front of a real member.
func writeDown(t *testing.T) {
	cluster := servers.HazelcastNamed(t, "recorded", 1)
	var mu sync.Mutex
	var told []said
	l := serve(t, func(c net.Conn) {
		member, err := net.Dial("tcp", cluster.Members[0].Addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer member.Close()
		in, out := bufio.NewReader(c), bufio.NewReader(member)
		hello := make([]byte, 3)
		if _, err := io.ReadFull(in, hello); err != nil {
			return
		}
		member.Write(hello)
		for first := true; ; first = false {
			for i, side := range []struct {
				from *bufio.Reader
				to   io.Writer
			}{{in, member}, {out, c}} {
				m, err := wire.ReadMessage(side.from, limit)
				if err != nil {
					return
				}
				s := said{client: i == 0, first: i == 0 && first, bytes: m.Bytes()}
				side.to.Write(s.bytes)
				if s.first {
					s.bytes = anonymous(s.bytes)
				}
				mu.Lock()
				told = append(told, s)
				mu.Unlock()
			}
		}
	})
	heard, err := talk(t.Context(), l.Addr().String(), "recorded", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.Join(heard, "\n"))
	mu.Lock()
	defer mu.Unlock()
	var text strings.Builder
	for _, s := range told {
		fmt.Fprintln(&text, s)
	}
	if err := os.WriteFile(recording, []byte(text.String()), 0o666); err != nil {
		t.Fatal(err)
	}
}
