package natsstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/natsstore"
	"github.com/distsession/session/storetest"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// runServer starts a server that runs by itself and returns its host and port.
func runServer(t testing.TB, change func(*server.Options)) string {
	t.Helper()
	o := &server.Options{ServerName: "outside", Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true}
	if change != nil {
		change(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return strings.TrimPrefix(strings.TrimPrefix(s.ClientURL(), "nats://"), "tls://")
}

func connect(t testing.TB, addr string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// openURL opens what the test closes.
func openURL(t testing.TB, rawURL string) *natsstore.Store {
	t.Helper()
	s, err := session.Open(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(s) })
	n, ok := session.As[*natsstore.Store](s)
	if !ok {
		t.Fatalf("%s opens a %T", rawURL, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestServers(t *testing.T) {
	nc := connect(t, runServer(t, nil))
	storetest.Run(t, func(t *testing.T) storetest.Backend {
		clock, bucket := &storetest.Clock{}, newBucket()
		return storetest.Backend{
			Open: func() session.Store {
				s, err := natsstore.New(t.Context(), nc, &natsstore.Options{Bucket: bucket, Memory: true, Now: clock.Now})
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			Advance: clock.Advance,
		}
	})
}

func TestOpen(t *testing.T) {
	t.Setenv("NATS_SECRET", string(secret))
	t.Setenv("NATS_PASSWORD", "horse battery")
	plain := runServer(t, nil)
	withPassword := runServer(t, func(o *server.Options) { o.Username, o.Password = "ann", "horse battery" })
	a := newAuthority(t)
	ca, cert, key := a.files(t)
	withTLS := runServer(t, func(o *server.Options) { o.TLS, o.TLSConfig, o.TLSTimeout = true, a.tls(t), 5 })
	dir := t.TempDir()
	client := "127.0.0.1:" + servers.FreePort(t)
	q := url.QueryEscape
	for _, tt := range []struct{ name, url string }{
		{"a server", "nats://" + plain},
		{"two, of which one is down", "nats://127.0.0.1:1," + plain + "?bucket=two&consistency=local&max_stale=2s"},
		{"in memory", "nats://" + plain + "?bucket=mem&storage=memory&replicas=1"},
		{"an address as a parameter", "nats:?bucket=addr&addr=" + q(plain)},
		{"a password by reference", "nats://" + withPassword + "?username=ann&password=env:NATS_PASSWORD"},
		{"a password in the URL", "nats://ann:horse%20battery@" + withPassword},
		{"TLS", "nats+tls://" + withTLS + "?ca=" + q(ca)},
		{"a node that is alone", "nats+embedded:?dir=" + q(dir) + "&durability=file-sync"},
		{"a node in memory", "nats+embedded:?durability=memory&consistency=local"},
		{"a node that lets clients in", "nats+embedded://one@?durability=memory&secret=env:NATS_SECRET&client=" + client + "&ca=" + q(ca) + "&cert=" + q(cert) + "&key=" + q(key)},
		{"a client of it", "nats+tls://" + client + "?storage=memory&secret=env:NATS_SECRET&ca=" + q(ca)},
	} {
		s := openURL(t, tt.url)
		_, token := create(t, s, "ann")
		if got := load(t, s, token); got.User != "ann" {
			t.Errorf("%s: the session is %q's", tt.name, got.User)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "jetstream")); err != nil {
		t.Errorf("the node's directory: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Setenv("NATS_SECRET", string(secret))
	t.Setenv("NATS_SHORT", "hunter2")
	for _, tt := range []struct{ url, want string }{
		{"nats:", "names no host"},
		{"nats://", "names no host"},
		{"nats://a/b", "bucket"},
		{"nats://a,b,:", "host:port"},
		{"nats://a:hunter2/@b:4222", "escape"},
		{"nats://ann@a:4222", "belong together"},
		{"nats://ann:hunter2@a:4222?password=env:NATS_SHORT", "keep the parameter"},
		{"nats://ann:hunter2@a:4222?token=env:NATS_SHORT", "more than one way"},
		{"nats://a?password=hunter2", "env:NAME"},
		{"nats://a?ca=x", "not known"},
		{"nats://a?consistency=eventual", "strong or local"},
		{"nats://a?storage=tape", "file or memory"},
		{"nats://a?replicas=2", "1, 3, 4 or 5"},
		{"nats://a?max_stale=1ms", "at least"},
		{"nats://a?bucket=a.b", "Bucket"},
		{"nats+tls://a?ca=/nonexistent", "ca"},
		{"nats+embedded:", "Dir"},
		{"nats+embedded:?durability=paper", "memory, file or file-sync"},
		{"nats+embedded:?durability=memory&role=king", "voter or cacher"},
		{"nats+embedded:?durability=memory&secret=env:NATS_SHORT", "openssl rand"},
		{"nats+embedded:?durability=memory&replicas=3", "not known"},
		{"nats+embedded://n1:hunter2@localhost:6222", "no password"},
		{"nats+embedded://n1@localhost:6222/x", "write nats+embedded"},
		{"nats+embedded://n1@localhost:6222?voter=localhost:6222&voter=localhost:6223&durability=memory", "1, 3 or 5"},
		{"nats+embedded://n1@10.0.0.1:6222?voter=10.0.0.1:6222&voter=10.0.0.2:6222&voter=10.0.0.3:6222&durability=memory&secret=env:NATS_SECRET", "Secret and TLS"},
	} {
		s, err := session.Open(t.Context(), tt.url)
		if err == nil {
			session.Close(s)
		}
		wantErr(t, tt.url, err, session.ErrConfig)
		if !contains(err, tt.want) || contains(err, "hunter2") || contains(err, string(secret)) {
			t.Errorf("%s: %v; want %q, and no password", tt.url, err, tt.want)
		}
	}
}

// A bucket that would break a promise is refused, and the message says how to
// mend it.
func TestBucketMustFit(t *testing.T) {
	addr := runServer(t, nil)
	nc := connect(t, addr)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		name   string
		change func(*jetstream.StreamConfig)
		want   string
	}{
		{"as it should be", func(*jetstream.StreamConfig) {}, ""},
		{"with a limit, and new ones refused", func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, ""},
		{"direct reads", func(c *jetstream.StreamConfig) { c.AllowDirect = true }, "--no-allow-direct"},
		{"a history", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }, "--max-msgs-per-subject=1"},
		{"no TTL", func(c *jetstream.StreamConfig) { c.AllowMsgTTL = false }, "--allow-msg-ttl"},
		{"an age", func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour; c.Duplicates = time.Minute }, "--max-age=0"},
		{"a limit that drops the oldest", func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 1000, jetstream.DiscardOld }, "--discard=new"},
		{"in memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "storage"},
		{"a work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, "retention"},
		{"no acknowledgements", func(c *jetstream.StreamConfig) { c.NoAck = true }, "--ack"},
		{"other subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"other.>"} }, "does not take"},
		{"no purge", func(c *jetstream.StreamConfig) { c.DenyPurge = true; c.AllowRollup = false }, "purge"},
	} {
		bucket := fmt.Sprint("fit", i) // the server may still be removing the files of the one before
		config := jetstream.StreamConfig{
			Name: "KV_" + bucket, Subjects: []string{"$KV." + bucket + ".>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowMsgTTL: true,
		}
		tt.change(&config)
		if _, err := js.CreateStream(t.Context(), config); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		s, err := natsstore.New(t.Context(), nc, &natsstore.Options{Bucket: bucket})
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "":
			wantErr(t, tt.name, err, session.ErrConfig)
			if !contains(err, tt.want) {
				t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
			}
		}
		if err == nil {
			s.Close()
		}
	}
	_, err = js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "made"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = session.Open(t.Context(), "nats://"+addr+"?bucket=made")
	wantErr(t, "a bucket as other programs make it", err, session.ErrConfig)
	_, err = session.Open(t.Context(), "nats://"+addr+"?bucket=three&replicas=3")
	if err == nil {
		t.Error("three replicas on one server")
	}
}

// A bucket that is lost is made again, and the copy begins anew with it.
func TestBucketIsLost(t *testing.T) {
	addr := runServer(t, nil)
	nc := connect(t, addr)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s := openURL(t, "nats://"+addr+"?consistency=local&max_stale=1s")
	for range 50 {
		create(t, s, "ann")
	}
	_, token := create(t, s, "ann")
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "KV_sessions"); err != nil {
		t.Fatal(err)
	}
	until(t, "the session's end", func() bool {
		_, err := s.Load(t.Context(), token)
		return errors.Is(err, session.ErrNotFound)
	})
	var fresh string
	until(t, "a sign-in", func() bool {
		rec, token := draft("ann")
		_, err := s.Save(t.Context(), rec)
		fresh = token
		return err == nil
	})
	until(t, "a copy that is fed", func() bool { return s.Ready(t.Context()) == nil && s.Sync(t.Context()) == nil })
	load(t, s, fresh)
	gone(t, s, token, "after the bucket was made anew")
	if st := s.Status(t.Context()); st.Sessions != 1 || st.LastSeq == 0 {
		t.Errorf("the status is %+v", st)
	}
}

// A server that does not answer at the start is used as soon as it does.
func TestOpenEarly(t *testing.T) {
	proxy := faults.NewProxy(t, runServer(t, nil))
	proxy.Cut()
	s, err := session.Open(t.Context(), "nats://"+proxy.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(s)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = s.Load(ctx, session.NewToken())
	failed(t, "load", err)
	if !contains(err, "not reached yet: ") { // and why
		t.Errorf("load: %v", err)
	}
	proxy.Heal()
	until(t, "an answer", func() bool {
		_, err := s.Load(t.Context(), session.NewToken())
		return errors.Is(err, session.ErrNotFound)
	})
	create(t, s, "ann")
}

// Why a bucket cannot be used is logged once, and again when it is another
// reason or the same one comes back.
func TestNote(t *testing.T) {
	log, text := newLog(slog.LevelWarn)
	note := natsstore.Note(log)
	away, unfit := errors.New("nobody answers"), fmt.Errorf("%w: a history", natsstore.Unfit)
	for _, err := range []error{nil, away, errors.New("nobody answers"), unfit, unfit, away, nil, nil, away, away} {
		note(err)
	}
	var got []string
	for line := range strings.Lines(text()) {
		for _, what := range []string{"WARN", "ERROR"} {
			if strings.Contains(line, what) {
				got = append(got, what)
			}
		}
	}
	if want := []string{"WARN", "ERROR", "WARN", "WARN"}; !slices.Equal(got, want) {
		t.Errorf("logged %v; want %v:\n%s", got, want, text())
	}
}

// What a stranger wrote into the bucket is no session, and stops nothing.
func TestForeignMessages(t *testing.T) {
	addr := runServer(t, nil)
	s := openURL(t, "nats://"+addr+"?consistency=local")
	_, token := create(t, s, "ann")
	bad := session.NewToken()
	for i, text := range []string{"hello", "s1 ", strings.Repeat("\x00", 300)} {
		for _, subject := range []string{"r." + session.ID(bad), "r.x.%%", "r.x", "r.a.b.c", "u.x.y", fmt.Sprint("other", i)} {
			if err := s.PublishRaw(subject, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone(t, s, bad, "what cannot be decoded")
		load(t, s, token)
		n := 0
		for rec, err := range s.Scan(t.Context()) {
			if err != nil || rec.User != "ann" {
				t.Errorf("Scan yields %v, %v", rec, err)
			}
			n++
		}
		if n != 1 {
			t.Errorf("Scan yields %d sessions", n)
		}
	}
}
