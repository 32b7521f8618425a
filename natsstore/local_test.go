package natsstore_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/natsstore"
)

// gate holds a feed back while it is closed.
type gate struct {
	mu   sync.Mutex
	shut chan struct{}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

func (g *gate) wait(ctx context.Context) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut == nil {
		return
	}
	select {
	case <-shut:
	case <-ctx.Done():
	}
}

// openHeld opens a store whose feed the gate holds back.
func openHeld(t *testing.T, n *natsstore.Node, g *gate, opts natsstore.Options) *natsstore.Store {
	t.Helper()
	opts.Consistency = natsstore.Local
	s, err := n.OpenHeld(&opts, g.wait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// With the feed held back a node still knows who has just signed in elsewhere,
// believes what it has for no longer than MaxStale, and does not lose what it
// saved itself.
func TestFeedHeldBack(t *testing.T) {
	nodes := startNodes(t, 1)
	const stale = 2 * time.Second
	bucket := newBucket()
	var g gate
	here := openHeld(t, nodes[0], &g, natsstore.Options{Bucket: bucket, MaxStale: stale})
	there := open(t, nodes[0], &natsstore.Options{Bucket: bucket})
	rec, token := create(t, there, "ann")
	other, otherToken := create(t, there, "ann")
	if err := here.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.close()
	defer g.open()
	held := time.Now()

	_, newcomer := create(t, there, "bob")
	if got := load(t, here, newcomer); got.User != "bob" {
		t.Errorf("a sign-in that the feed has not brought is %q's", got.User)
	}
	gone(t, here, session.NewToken(), "an invented token")

	mine := load(t, here, otherToken)
	mine.Data = []byte(`{"n":2}`)
	save(t, here, mine)
	if got := load(t, here, otherToken); got.Version != 2 || string(got.Data) != `{"n":2}` {
		t.Errorf("the node does not see its own change: version %d", got.Version)
	}
	if err := here.Delete(t.Context(), other.ID); err != nil {
		t.Fatal(err)
	}
	gone(t, here, otherToken, "after the node's own Delete")

	changed := load(t, there, token)
	changed.Data = []byte(`{"n":3}`)
	save(t, there, changed)
	slow := load(t, here, token)
	if slow.Version != 1 && time.Since(held) < stale {
		t.Errorf("version %d, which only the feed can have brought", slow.Version)
	}
	slow.Data = []byte(`{"lost":true}`)
	_, err := here.Save(t.Context(), slow)
	if slow.Version == 1 {
		wantErr(t, "a save of what the copy had", err, session.ErrConflict)
	}
	if got, err := here.LoadAtLeast(t.Context(), token, 2); err != nil || got.Version < 2 || string(got.Data) != `{"n":3}` {
		t.Errorf("LoadAtLeast = %+v, %v", got, err)
	}
	if err := there.Delete(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := here.Load(t.Context(), token)
		if errors.Is(err, session.ErrNotFound) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(held); age > stale+time.Second {
			t.Fatalf("%v after the feed was held back the copy is still believed", age)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := here.Ready(t.Context()); err == nil {
		t.Error("a node whose feed is held back is ready")
	}
	load(t, here, newcomer) // from the leader
	g.open()
	if err := here.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone(t, here, token, "after the feed went on")
	gone(t, here, otherToken, "after the feed went on")
	load(t, here, newcomer)
}

// Without a majority nothing is answered that may be too old, and nothing is
// ErrNotFound.
func TestNoMajority(t *testing.T) {
	many(t)
	nodes := startNodes(t, 3)
	const stale = time.Second
	bucket := newBucket()
	local := open(t, nodes[0], &natsstore.Options{Bucket: bucket, Consistency: natsstore.Local, MaxStale: stale})
	strong := open(t, nodes[0], &natsstore.Options{Bucket: bucket, MaxStale: stale})
	rec, token := create(t, local, "ann")
	nodes[1].Close()
	nodes[2].Close()
	ended := time.Now()
	call := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return f(ctx)
	}
	for _, s := range []*natsstore.Store{local, strong} {
		for _, token := range []string{token, session.NewToken()} {
			for {
				err := call(func(ctx context.Context) error { _, err := s.Load(ctx, token); return err })
				age := time.Since(ended)
				if err != nil && (age > stale || !errors.Is(err, session.ErrNotFound)) {
					failed(t, "a load", err)
					break
				}
				if age > stale+3*time.Second {
					t.Fatalf("%v after the majority was lost a load is answered: %v", age, err)
				}
			}
		}
		failed(t, "a save", call(func(ctx context.Context) error { _, err := s.Save(ctx, load1(rec)); return err }))
		failed(t, "a touch", call(func(ctx context.Context) error {
			return s.Touch(ctx, rec.ID, time.Now(), time.Now().Add(2*time.Hour))
		}))
		failed(t, "a delete", call(func(ctx context.Context) error { return s.Delete(ctx, rec.ID) }))
		failed(t, "DeleteUser", call(func(ctx context.Context) error { _, err := s.DeleteUser(ctx, "ann", ""); return err }))
		failed(t, "List", call(func(ctx context.Context) error {
			for _, err := range s.List(ctx, "ann") {
				return err
			}
			return nil
		}))
		if err := s.Ready(t.Context()); err == nil {
			t.Error("ready without a majority")
		}
	}
}

// load1 is rec as Load would have returned it, without a Tag.
func load1(rec *session.Record) *session.Record {
	loaded := *rec
	loaded.Version = 1
	return &loaded
}

// The copy takes only what is newer, from either side.
func TestCopy(t *testing.T) {
	at := func(version int64) *session.Record {
		return &session.Record{ID: "a", Version: version, Expires: time.Now().Add(time.Hour)}
	}
	type step struct {
		see     bool // or feed
		version int64
		seq     uint64
	}
	for _, tt := range []struct {
		name  string
		steps []step
		want  int64 // the version that is there; 0: none
	}{
		{"the feed, in order", []step{{false, 1, 1}, {false, 2, 2}}, 2},
		{"own change, before the feed", []step{{false, 1, 1}, {true, 3, 9}, {false, 2, 5}}, 3},
		{"own change, then the feed brings it", []step{{true, 1, 4}, {false, 1, 4}, {false, 2, 5}}, 2},
		{"an answer of the leader that comes after the feed passed it", []step{{false, 1, 1}, {false, 0, 7}, {true, 1, 3}}, 0},
		{"the same, and the feed stands at another session", []step{{false, 2, 7}, {true, 1, 3}}, 2},
		{"own delete, before older changes of the feed", []step{{false, 1, 1}, {true, 0, 9}, {false, 2, 5}}, 0},
		{"own delete, which the feed brings", []step{{true, 0, 9}, {false, 0, 9}, {false, 1, 12}}, 1},
	} {
		c := natsstore.NewCopy()
		for _, s := range tt.steps {
			var rec *session.Record
			if s.version > 0 {
				rec = at(s.version)
			}
			if s.see {
				c.See("a", rec, s.seq)
			} else {
				c.Feed("a", rec, s.seq)
			}
		}
		var got int64
		if rec := c.Get("a"); rec != nil {
			got = rec.Version
		}
		if got != tt.want {
			t.Errorf("%s: version %d; want %d", tt.name, got, tt.want)
		}
	}
	c := natsstore.NewCopy()
	c.Feed("live", at(1), 1)
	c.Feed("over", &session.Record{Expires: time.Now()}, 2)
	c.See("ended", nil, 3)
	c.Feed("", nil, 3)
	c.See("to come", nil, 4)
	c.Sweep(time.Now())
	if c.Len() != 2 || c.Get("live") == nil {
		t.Errorf("after a sweep the copy holds %d entries; want the live one and the one that the feed has not passed", c.Len())
	}
}

// A beat that comes back vouches for what was acknowledged before it was sent,
// if nothing is pending behind it; otherwise for what the last one before it
// that had come back did.
func TestPulse(t *testing.T) {
	began := time.Now()
	at := func(n int) time.Time { return began.Add(time.Duration(n) * time.Second) }
	p := natsstore.NewPulses()
	for _, tt := range []struct {
		name    string
		data    string
		pending uint64
		want    time.Time
	}{
		{"the first, with more behind it: nothing is known", "1", 3, time.Time{}},
		{"the second, which was sent before the first came back", "2", 3, time.Time{}},
		{"the third, with more behind it: as the second", "3", 3, at(2)},
		{"the fourth, with nothing behind it", "4", 0, at(4)},
		{"the fourth again", "4", 0, time.Time{}},
		{"one of another", "99", 0, time.Time{}},
		{"no number", "x", 0, time.Time{}},
	} {
		switch tt.data {
		case "1":
			p.Sent(1, at(1))
			p.Sent(2, at(2))
		case "3":
			p.Sent(3, at(3))
			p.Sent(4, at(4))
		}
		if got := p.Came(tt.data, tt.pending); !got.Equal(tt.want) {
			t.Errorf("%s: %v; want %v", tt.name, got, tt.want)
		}
	}
	if natsstore.Since(time.Time{}) < time.Hour {
		t.Error("a copy that never was complete is believed")
	}
	// The wall clock runs while the machine sleeps.
	if age := natsstore.Since(time.Now().Add(-time.Hour).Round(0)); age < time.Hour {
		t.Errorf("after an hour of sleep the copy is %v old", age)
	}
}

// Loads of one session share a question to the leader, and only so many are
// asked at a time.
func TestAsks(t *testing.T) {
	a := natsstore.NewAsks()
	release := make(chan struct{})
	var running, most atomic.Int64
	var ids sync.Map // that are asked for now
	leader := func(ctx context.Context, id string) (*session.Record, error) {
		if _, twice := ids.LoadOrStore(id, true); twice {
			t.Errorf("two questions at once for %s", id)
		}
		defer ids.Delete(id)
		n := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-release
		if id == "none" {
			return nil, session.ErrNotFound
		}
		return &session.Record{ID: id}, nil
	}
	var wg sync.WaitGroup
	ask := func(id string) {
		wg.Go(func() {
			rec, err := a.Do(t.Context(), id, leader)
			switch {
			case id == "none":
				wantErr(t, "the answer that there is none", err, session.ErrNotFound)
			case err != nil || rec.ID != id:
				t.Errorf("asked for %s: %v, %v", id, rec, err)
			}
		})
	}
	for range 50 {
		ask("one")
		ask("none")
	}
	until(t, "two questions", func() bool { return running.Load() == 2 })
	for range 2 * natsstore.MaxAsks {
		ask(session.NewToken())
	}
	until(t, "as many questions as there may be", func() bool { return running.Load() == natsstore.MaxAsks })
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := a.Do(late, "another", leader)
	wantErr(t, "one too many, in a hurry", err, context.DeadlineExceeded)
	close(release)
	wg.Wait()
	if n := most.Load(); n != natsstore.MaxAsks {
		t.Errorf("%d questions at a time; want %d", n, natsstore.MaxAsks)
	}
}
