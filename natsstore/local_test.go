package natsstore_test

import (
	"context"
	"errors"
	"fmt"
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
	_, carls := create(t, there, "carl")
	if err := here.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.close()
	defer g.open()
	held := time.Now()

	if n, err := there.DeleteUser(t.Context(), "carl", ""); n != 1 || err != nil {
		t.Errorf("DeleteUser = %d, %v", n, err)
	}
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
	for _, token := range []string{token, carls} { // Delete and DeleteUser elsewhere
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
	gone(t, here, carls, "after the feed went on")
	gone(t, here, otherToken, "after the feed went on")
	load(t, here, newcomer)
}

// A load that begins after this node changed or ended a session does not take
// part in a question that was answered before, even where the copy tells nothing.
func TestOwnChangeIsSeen(t *testing.T) {
	s := open(t, startNodes(t, 1)[0], &natsstore.Options{Consistency: natsstore.Local})
	for _, tt := range []struct {
		name  string
		write func(t *testing.T, rec *session.Record) error
		live  bool
	}{
		{"Save", func(t *testing.T, rec *session.Record) error { _, err := s.Save(t.Context(), rec); return err }, true},
		{"Touch", func(t *testing.T, rec *session.Record) error {
			return s.Touch(t.Context(), rec.ID, time.Now(), rec.Expires.Add(time.Minute))
		}, true},
		{"Delete", func(t *testing.T, rec *session.Record) error { return s.Delete(t.Context(), rec.ID) }, false},
		{"DeleteUser", func(t *testing.T, rec *session.Record) error {
			n, err := s.DeleteUser(t.Context(), rec.User, "")
			if n != 1 {
				t.Errorf("DeleteUser ended %d sessions", n)
			}
			return err
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, token := create(t, s, "ann of "+tt.name)
			rec := load(t, s, token)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			asked, release := make(chan struct{}), make(chan struct{})
			var first sync.WaitGroup
			first.Go(func() {
				if _, err := s.AskHeld(ctx, rec.ID, func() { close(asked); <-release }); err != nil {
					t.Errorf("the question that was asked before: %v", err)
				}
			})
			<-asked
			if err := tt.write(t, rec); err != nil {
				t.Fatal(err)
			}
			s.ClearCopy()
			late := make(chan error, 1)
			var got *session.Record
			go func() {
				var err error
				got, err = s.Load(ctx, token)
				late <- err
			}()
			select {
			case err := <-late:
				switch {
				case !tt.live:
					wantErr(t, "a load after it", err, session.ErrNotFound)
				case err != nil:
					t.Error(err)
				case got.Version == rec.Version && got.Expires.Equal(rec.Expires):
					t.Errorf("a load after it shows the session as it was: %+v", got)
				}
			case <-ctx.Done():
				t.Error("a load after it waits for what was asked before")
			}
			close(release)
			first.Wait()
		})
	}
}

// While one session is written all the time and others with it, Sync comes to an
// end, and shows what was acknowledged before it began.
func TestSyncUnderLoad(t *testing.T) {
	nodes := startNodes(t, 1)
	bucket := newBucket()
	here := open(t, nodes[0], &natsstore.Options{Bucket: bucket, Consistency: natsstore.Local})
	there := open(t, nodes[0], &natsstore.Options{Bucket: bucket})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	var saved atomic.Int64 // the version of the first session that was acknowledged
	var watched string
	for i := range 8 {
		rec, token := create(t, there, "ann")
		if i == 0 {
			watched = token
		}
		wg.Go(func() {
			rec := load1(rec)
			for ctx.Err() == nil {
				if _, err := there.Save(ctx, rec); err != nil {
					if ctx.Err() == nil {
						t.Errorf("a save: %v", err)
					}
					return
				}
				rec = next(rec)
				if i == 0 {
					saved.Store(rec.Version)
				}
			}
		})
	}
	for range 20 {
		before := saved.Load()
		if err := here.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := load(t, here, watched); got.Version < before {
			t.Fatalf("after Sync version %d is shown; %d was acknowledged before", got.Version, before)
		}
		if err := here.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		until(t, "another save", func() bool { return saved.Load() > before })
	}
}

// A copy that was away for too long does not go on where it was: what ended
// meanwhile may have left no trace in the stream.
func TestAwayForLong(t *testing.T) {
	n := startNodes(t, 1)[0]
	const away = 3 * time.Second
	var g gate
	here, err := n.OpenAway(&natsstore.Options{Consistency: natsstore.Local, MaxStale: time.Second}, g.wait, away)
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := here.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	there := open(t, n, nil)
	_, stays := create(t, there, "ann")
	rec, ends := create(t, there, "ann")
	if err := here.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.close()
	defer g.open()
	if err := there.Erase(t.Context(), rec.ID); err != nil { // as when the marker's time is over
		t.Fatal(err)
	}
	until(t, "a copy that is too old", func() bool { return here.Status(t.Context()).Stale > away })
	g.open()
	until(t, "a copy that is fed", func() bool { return here.Ready(t.Context()) == nil && here.Sync(t.Context()) == nil })
	gone(t, here, ends, "what left no trace")
	load(t, here, stays)
	if st := here.Status(t.Context()); st.Sessions != 1 {
		t.Errorf("the copy has %d sessions; want 1", st.Sessions)
	}
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

// What a message proves of the copy: nothing while more is pending behind it,
// and otherwise that it has what was acknowledged before the newest beat that
// has come was sent.
func TestFeedProves(t *testing.T) {
	began := time.Now()
	at := func(n uint64) time.Time { return began.Add(time.Duration(n) * time.Second) }
	token, stranger := session.NewToken(), session.NewToken()
	id := session.ID(token)
	text := func(id string, version int64) []byte {
		rec, _ := draft("ann")
		rec.ID, rec.Version = id, version-1
		data, err := session.EncodeRecord(rec, session.NewTrail())
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	type message struct {
		sent    []uint64 // beats that are sent before it comes
		beat    uint64   // it is this one, or
		version int64    // this version of the session; 0: another session's
		from    string   // the consumer
		pending uint64
		forget  bool   // the copy begins anew before
		as      uint64 // then the copy is known to have what was before this beat; 0: nothing is
	}
	for _, tt := range []struct {
		name     string
		messages []message
		version  int64 // that the copy has in the end
	}{
		{"a beat with nothing behind it", []message{{sent: []uint64{1}, beat: 1, as: 1}}, 0},
		{"a beat with more behind it, and the last of that", []message{
			{sent: []uint64{1}, beat: 1, pending: 2}, {version: 1, pending: 1}, {as: 1},
		}, 1},
		{"beats, and always more behind them", []message{
			{sent: []uint64{1}, beat: 1, pending: 5}, {sent: []uint64{2}, beat: 2, pending: 7}, {sent: []uint64{3}, beat: 3, pending: 1},
			{sent: []uint64{4}, beat: 4, pending: 1},
		}, 0},
		// The second version was acknowledged before the first beat was sent, and
		// so was each that replaced it before the feed came there: the copy has
		// the first all the time.
		{"a session that is always replaced before it is brought", []message{
			{version: 1, pending: 0},
			{sent: []uint64{1}, beat: 1, pending: 1}, {sent: []uint64{2}, beat: 2, pending: 1}, {sent: []uint64{3}, beat: 3, pending: 1},
			{version: 9, as: 3},
		}, 9},
		{"a beat that comes twice, and one that was not sent", []message{
			{sent: []uint64{1, 2}, beat: 1, as: 1}, {beat: 1, as: 1}, {beat: 7, as: 1}, {beat: 2, as: 2},
		}, 0},
		{"nothing behind it, and no beat has come yet", []message{{sent: []uint64{1}}}, 0},
		{"another consumer goes on, which may be behind", []message{
			{sent: []uint64{1}, beat: 1, from: "a", as: 1},
			{sent: []uint64{2, 3}, beat: 2, from: "a", pending: 1, as: 1},
			{from: "b", as: 1},          // the second beat was seen elsewhere
			{beat: 3, from: "b", as: 1}, // and the third was sent before the change
			{sent: []uint64{4}, beat: 4, from: "b", as: 4},
		}, 0},
		{"the copy begins anew, with another consumer", []message{
			{sent: []uint64{1, 2}, beat: 1, from: "a", as: 1},
			{forget: true, from: "b", as: 0},
			{beat: 2, from: "b", as: 2},
		}, 0},
	} {
		f := natsstore.NewFeed()
		for i, m := range tt.messages {
			for _, n := range m.sent {
				f.Sent(n, at(n))
			}
			if m.forget {
				f.Forget()
			}
			subject, data := "r."+session.ID(stranger), text(session.ID(stranger), 1)
			switch {
			case m.beat > 0:
				subject, data = "beat", fmt.Append(nil, m.beat)
			case m.version > 0:
				subject, data = "r."+id, text(id, m.version)
			}
			if err := f.Apply(subject, data, uint64(i+1), m.from, m.pending); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			want := time.Time{}
			if m.as > 0 {
				want = at(m.as)
			}
			if _, as := f.Has(id); !as.Equal(want) {
				t.Errorf("%s: after message %d the copy is as of %v; want %v", tt.name, i+1, as, want)
			}
		}
		if version, _ := f.Has(id); version != tt.version {
			t.Errorf("%s: the copy has version %d; want %d", tt.name, version, tt.version)
		}
	}
}

func TestSince(t *testing.T) {
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
