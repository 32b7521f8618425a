package hdfsstore_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hdfsstore"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/servers"
)

// silent takes connections and never answers.
func silent(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// late checks that a call ends by its deadline, or soon after its context was
// cancelled, as the failure of a store. Every call has the time that is left:
// slack is for a busy machine.
func late(t *testing.T, what string, call func(context.Context) error) {
	t.Helper()
	const timeout, slack = 200 * time.Millisecond, 5 * time.Second
	for _, cancelled := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		want := context.DeadlineExceeded
		if cancelled {
			ctx, cancel = context.WithCancel(t.Context())
			want = context.Canceled
			time.AfterFunc(timeout, cancel)
		}
		at := time.Now()
		err := call(ctx)
		cancel()
		failed(t, what, err)
		// Where there is another namenode, half of the time is one's.
		if !errors.Is(err, want) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v; want %v", what, err, want)
		}
		if d := time.Since(at); d > timeout+slack {
			t.Errorf("%s: ended after %v", what, d)
		}
	}
}

// Every call ends with its context on a namenode that is silent, also those that
// wait for a client, and nothing is left behind.
func TestSilentNamenode(t *testing.T) {
	before := runtime.NumGoroutine()
	addr := silent(t)
	s, err := hdfsstore.New([]string{addr, addr}, "/a", &hdfsstore.Options{User: user, Clients: 2, Timeout: time.Hour})
	must(t, err)
	token := session.NewToken()
	rec := &session.Record{ID: session.ID(token), User: "ann", Created: time.Now(), Seen: time.Now(), Expires: time.Now().Add(time.Hour)}
	var wg sync.WaitGroup
	for name, call := range calls(s, rec, token) {
		wg.Go(func() { late(t, name, call) })
	}
	wg.Wait()
	s.Close()
	left(t, before)
}

// The same where no context says when: Timeout does.
func TestTimeout(t *testing.T) {
	s := newStore(t, []string{silent(t)}, "/a", hdfsstore.Options{Timeout: 100 * time.Millisecond})
	_, err := s.Load(context.WithoutCancel(t.Context()), session.NewToken())
	failed(t, "load", err)
}

func TestClosed(t *testing.T) {
	s := newStore(t, []string{silent(t)}, "/a", hdfsstore.Options{})
	must(t, s.Close())
	must(t, s.Close())
	_, err := s.Load(t.Context(), session.NewToken())
	failed(t, "load", err)
}

// left waits until no more goroutines run than before.
func left(t *testing.T, before int) {
	t.Helper()
	servers.Wait(t, "goroutines", 20*time.Second, func(context.Context) error {
		if n := runtime.NumGoroutine(); n > before+1 { // the test's own timers
			b := make([]byte, 1<<16)
			return errors.New(string(b[:runtime.Stack(b, true)]))
		}
		return nil
	})
}

// A namenode behind a cable that was pulled, and plugged in again.
func (c *cluster) testHalfOpen(t *testing.T) {
	proxy := faults.NewProxy(t, c.Namenode.Addr)
	root := c.folder()
	direct := c.store(t, root, hdfsstore.Options{})
	behind := newStore(t, []string{proxy.Addr}, root, hdfsstore.Options{Clients: 4})
	_, token := create(t, behind)
	rec := load(t, behind, token)
	for what, hurt := range map[string]func(){"stalled": proxy.Stall, "cut": proxy.Cut} {
		t.Run(what, func(t *testing.T) {
			hurt()
			for name, call := range calls(behind, rec, token) {
				if what == "stalled" {
					late(t, name, call)
					continue
				}
				failed(t, name, call(t.Context()))
			}
			if got := load(t, direct, token); got.Version != rec.Version || !got.Seen.Equal(rec.Seen) {
				t.Errorf("version %d, seen %v; want %d, %v", got.Version, got.Seen, rec.Version, rec.Seen)
			}
			proxy.Heal()
			save(t, behind, rec)
			rec = load(t, behind, token)
		})
	}
}

// An answer that was lost after the namenode had done its work is told from a
// conflict.
func (c *cluster) testLostAnswers(t *testing.T) {
	proxy := faults.NewProxy(t, c.Namenode.Addr)
	root := c.folder()
	direct := c.store(t, root, hdfsstore.Options{})
	behind := newStore(t, []string{proxy.Addr}, root, hdfsstore.Options{})
	for _, tt := range []struct {
		name    string
		method  string // of the namenode, whose answer is lost
		create  bool
		between int // saves by others, before the writer notices
		want    error
		version int64
	}{
		{"update", "rename2", false, 0, nil, 2},
		{"update, one save later", "rename2", false, 1, nil, 3},
		{"update, three saves later", "rename2", false, 3, nil, 5},
		{"update, the file made", "create", false, 0, nil, 2},
		{"update, a block added", "addBlock", false, 0, nil, 2},
		{"update, the file finished", "complete", false, 0, nil, 2},
		{"update, and another was first", "complete", false, 1, session.ErrConflict, 2},
		{"create", "rename2", true, 0, nil, 1},
		{"create, two saves later", "rename2", true, 2, nil, 3},
		{"create, the folder made", "mkdirs", true, 0, nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rec, token := create(t, direct)
			if tt.create {
				must(t, direct.Delete(t.Context(), rec.ID))
				rec.Version = 0
			} else {
				rec = load(t, direct, token)
			}
			_, err := behind.Load(t.Context(), session.NewToken()) // connects
			wantErr(t, "load", err, session.ErrNotFound)
			proxy.LoseNext(1, called(tt.method), func() {
				for range tt.between {
					save(t, direct, load(t, direct, token))
				}
			})
			_, err = behind.Save(t.Context(), rec)
			wantErr(t, "save", err, tt.want)
			if n := proxy.Lost(); n != 1 {
				t.Fatalf("%d answers were lost", n)
			}
			if v := load(t, direct, token).Version; v != tt.version {
				t.Errorf("version %d; want %d", v, tt.version)
			}
			// What another node saves from here is still a conflict.
			_, err = direct.Save(t.Context(), rec)
			wantErr(t, "save again", err, session.ErrConflict)
		})
	}
	rec, token := create(t, behind)
	proxy.LoseNext(1, called("rename2"), nil)
	must(t, behind.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)))
	if got := load(t, direct, token); got.Seen.UnixMilli() != rec.Seen.Add(time.Minute).UnixMilli() || proxy.Lost() != 1 {
		t.Errorf("touch: seen %v, %d lost", got.Seen, proxy.Lost())
	}
	proxy.LoseNext(1, called("rename2"), nil)
	must(t, behind.Delete(t.Context(), rec.ID))
	_, err := direct.Load(t.Context(), token)
	wantErr(t, "load", err, session.ErrNotFound)
	if n := proxy.Lost(); n != 1 {
		t.Errorf("delete: %d lost", n)
	}
}

// called matches a call of the namenode.
func called(method string) func([]byte) bool {
	name := append([]byte{byte(len(method))}, method...) // as a field of a message
	return func(request []byte) bool { return bytes.Contains(request, name) }
}

// With several namenodes one that is silent, or gone, costs half of one call's
// time, and the next calls begin with another.
func (c *cluster) testNamenodes(t *testing.T) {
	root := c.folder()
	c.store(t, root, hdfsstore.Options{})
	for what, addr := range map[string]string{"silent": silent(t), "gone": "127.0.0.1:" + servers.FreePort(t)} {
		t.Run(what, func(t *testing.T) {
			s := newStore(t, []string{addr, c.Namenode.Addr}, root, hdfsstore.Options{})
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				_, err := s.Load(ctx, session.NewToken())
				cancel()
				wantErr(t, "load", err, session.ErrNotFound)
			}
			_, token := create(t, s)
			load(t, s, token)
		})
	}
}

// Open returns a store while HDFS is away, and the store is ready when HDFS is.
func (c *cluster) testAwayAtStart(t *testing.T) {
	proxy := faults.NewProxy(t, c.Namenode.Addr)
	proxy.Cut()
	root := c.folder()
	s, err := session.Open(t.Context(), "hdfs://"+proxy.Addr+root+"?user="+user)
	must(t, err)
	defer session.Close(s)
	_, err = s.Load(t.Context(), session.NewToken())
	failed(t, "load", err)
	proxy.Heal()
	rec := &session.Record{ID: session.ID(session.NewToken()), Created: time.Now(), Seen: time.Now(), Expires: time.Now().Add(time.Hour)}
	servers.Wait(t, "a session is saved", 30*time.Second, func(ctx context.Context) error {
		_, err := s.Save(ctx, rec)
		if errors.Is(err, session.ErrConflict) {
			return nil // by a try that is said to have failed
		}
		return err
	})
}
