package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

// A call of the backup is held up, before or after the backup has done its work,
// while this node does something else to the session. Whatever comes of the call
// must be no copy that shows less than what was done, and no request that comes
// later may share it.
func TestCachedCallsThatAreOvertaken(t *testing.T) {
	type act struct {
		name string
		do   func(t *testing.T, c *cache, rec *session.Record, token string) error
		ends bool
		data string
	}
	acts := []act{
		{"save", func(t *testing.T, c *cache, rec *session.Record, _ string) error {
			next := *rec
			next.Data = []byte(`{"n":2}`)
			_, err := c.Save(t.Context(), &next)
			return err
		}, false, `{"n":2}`},
		{"marker", func(t *testing.T, c *cache, rec *session.Record, _ string) error {
			_, err := c.Save(t.Context(), markerOf(rec, time.Now()))
			return err
		}, false, ""},
		{"delete", func(t *testing.T, c *cache, rec *session.Record, _ string) error {
			return c.Delete(t.Context(), rec.ID)
		}, true, ""},
		{"delete user", func(t *testing.T, c *cache, rec *session.Record, _ string) error {
			_, err := session.DeleteUser(t.Context(), c, rec.User, "")
			return err
		}, true, ""},
		{"touch", func(t *testing.T, c *cache, rec *session.Record, _ string) error {
			toucher, _ := session.As[session.Toucher](c.Store)
			return toucher.Touch(t.Context(), rec.ID, rec.Seen.Add(30*time.Minute), rec.Expires.Add(30*time.Minute))
		}, false, `{"n":1}`},
	}
	held := map[string]struct {
		method storetest.Method
		call   func(t *testing.T, c *cache, rec *session.Record, token string)
	}{
		"load": {storetest.Load, func(t *testing.T, c *cache, _ *session.Record, token string) { c.Load(t.Context(), token) }},
		"save": {storetest.Save, func(t *testing.T, c *cache, rec *session.Record, _ string) {
			next := *rec
			next.Data = []byte(`{"n":2}`)
			c.Save(t.Context(), &next)
		}},
		"touch": {storetest.Touch, func(t *testing.T, c *cache, rec *session.Record, _ string) {
			toucher, _ := session.As[session.Toucher](c.Store)
			toucher.Touch(t.Context(), rec.ID, rec.Seen.Add(20*time.Minute), rec.Expires.Add(20*time.Minute))
		}},
	}
	for name, h := range held {
		for _, where := range []string{"before", "after"} {
			for _, a := range acts {
				for _, copied := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s held up %s the backup's work, %s, copy %t", name, where, a.name, copied), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							c := newCache(t, &session.CachedOptions{MaxStale: time.Hour})
							rec, token := create(t, c.memory)
							if copied && name != "load" {
								load(t, c, token)
							}
							gate := storetest.NewGate()
							fault := gate.Before
							if where == "after" {
								fault = gate.After
							}
							c.backup.Set(h.method, storetest.Nth(1, fault))
							done := make(chan struct{})
							go func() {
								defer close(done)
								h.call(t, c, rec, token)
							}()
							<-gate.Arrived()
							err := a.do(t, c, rec, token)
							if err != nil && !errors.Is(err, session.ErrConflict) {
								t.Fatal(err)
							}
							meanwhile, errMeanwhile := c.Load(t.Context(), token)
							gate.Open()
							<-done
							truth, errTruth := c.memory.Load(t.Context(), token)
							copied, errCopied := c.Load(t.Context(), token)
							if a.ends {
								wantErr(t, "while the call is held up", errMeanwhile, session.ErrNotFound)
								wantErr(t, "the truth", errTruth, session.ErrNotFound)
								wantErr(t, "the copy", errCopied, session.ErrNotFound)
								return
							}
							if errMeanwhile != nil || errTruth != nil || errCopied != nil {
								t.Fatal(errMeanwhile, errTruth, errCopied)
							}
							if err == nil && (string(meanwhile.Data) != a.data && a.name != "touch" || a.name == "marker" && !meanwhile.Replaced) {
								t.Errorf("while the call is held up: %+v with %s", meanwhile, meanwhile.Data)
							}
							if truth.Version != copied.Version || string(truth.Data) != string(copied.Data) || truth.Replaced != copied.Replaced ||
								!truth.Seen.Equal(copied.Seen) || !truth.Expires.Equal(copied.Expires) {
								t.Errorf("the truth is %+v with %s, the copy %+v with %s", truth, truth.Data, copied, copied.Data)
							}
						})
					})
				}
			}
		}
	}
}

// Of two saves one after the other the first one's answer comes last.
func TestCachedAnswersInTheWrongOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: time.Hour})
		rec, token := create(t, c)
		gate := storetest.NewGate()
		c.backup.Set(storetest.Save, storetest.Nth(1, gate.After))
		done := make(chan error)
		go func() {
			next := *rec
			next.Data = []byte(`{"n":2}`)
			_, err := c.Save(t.Context(), &next)
			done <- err
		}()
		<-gate.Arrived()
		second := load(t, c.memory, token) // as another node has shown it
		second.Data = []byte(`{"n":3}`)
		if _, err := c.Save(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		gate.Open()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		c.shows(t, "after both", token, `{"n":3}`, 0)
	})
}

// replica is a backup that answers from copies itself: what it has of the
// session is from before the last save, unless it is asked for that.
type replica struct {
	session.Store
	stale func() (*session.Record, error)
	loads chan chan struct{} // each is answered when what it sent is closed
}

func (r *replica) Load(ctx context.Context, token string) (*session.Record, error) {
	answer := make(chan struct{})
	r.loads <- answer
	<-answer
	return r.stale()
}

func (r *replica) LoadAtLeast(ctx context.Context, token string, version int64) (*session.Record, error) {
	return r.Store.Load(ctx, token)
}

// A request waits for the load of another one that knows of an older version,
// and then for the next such load: over a backup that answers from copies the
// second says no more than the first.
func TestCachedSharesNoLoadThatAskedForLess(t *testing.T) {
	for _, gone := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			memory := session.NewMemoryStore(nil)
			rec, token := create(t, memory)
			old := load(t, memory, token)
			rec.Data = []byte(`{"n":2}`)
			if _, err := memory.Save(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			backup := &replica{Store: memory, loads: make(chan chan struct{}), stale: func() (*session.Record, error) {
				if gone {
					return nil, session.ErrNotFound
				}
				copied := *old
				return &copied, nil
			}}
			var store session.Store
			begin := func() chan struct{} { // another request, which has seen no version
				go store.Load(t.Context(), token)
				return <-backup.loads
			}
			looks := 0
			var second chan struct{}
			store = session.Cached(backup, &session.CachedOptions{MaxStale: time.Second, Now: func() time.Time {
				if looks++; looks == 3 { // the request looks again after the first load
					second = begin()
				}
				return time.Now()
			}})
			first := begin()
			shown := make(chan *session.Record, 1)
			go func() {
				atLeaster, _ := session.As[session.AtLeaster](store)
				rec, err := atLeaster.LoadAtLeast(t.Context(), token, 2)
				if err != nil {
					t.Errorf("gone %v: %v", gone, err)
				}
				shown <- rec
			}()
			synctest.Wait()
			time.Sleep(2 * time.Second) // past MaxStale
			close(first)
			synctest.Wait()
			close(second)
			if rec := <-shown; rec == nil || rec.Version != 2 {
				t.Errorf("gone %v: a user's own version 2 is not shown, but %+v", gone, rec)
			}
		})
	}
}

// Parallel requests share one load, and nobody's trouble is another's.
func TestCachedSharedLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: 10 * time.Second})
		_, token := create(t, c.memory)
		all := func(n int, ctx func(i int) context.Context) ([]*session.Record, []error, func()) {
			recs, errs := make([]*session.Record, n), make([]error, n)
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() { recs[i], errs[i] = c.Load(ctx(i), token) })
				synctest.Wait() // in this order
			}
			return recs, errs, wg.Wait
		}
		plain := func(int) context.Context { return t.Context() }

		gate := storetest.NewGate()
		c.backup.Set(storetest.Load, gate.Before)
		recs, errs, wait := all(20, plain)
		gate.Open()
		wait()
		for i, err := range errs {
			if err != nil || recs[i].Version != 1 {
				t.Errorf("request %d: %+v, %v", i, recs[i], err)
			}
		}
		recs[0].User = "mallory"
		for _, rec := range recs[1:] {
			if rec.User != "ann" {
				t.Fatal("two requests share a record")
			}
		}
		if n := c.loads(); n != 1 {
			t.Errorf("%d loads", n)
		}

		// A failure is everybody's: the backup is not asked 20 times.
		time.Sleep(10 * time.Second)
		gate = storetest.NewGate()
		c.backup.Set(storetest.Load, func(ctx context.Context, n int, _ func() error) error {
			return gate.Before(ctx, n, func() error { return errAway })
		})
		_, errs, wait = all(20, plain)
		gate.Open()
		wait()
		for i, err := range errs {
			wantErr(t, fmt.Sprint("request ", i), err, errAway)
		}
		if n := c.loads(); n != 1 {
			t.Errorf("%d loads that fail", n)
		}

		// The first gives up, the second's time is up, the third gets it.
		c.backup.Set(storetest.Load, storetest.First(2, storetest.Stall()))
		cancelled, cancel := context.WithCancel(t.Context())
		short, end := context.WithTimeout(t.Context(), 3*time.Second)
		defer end()
		start := time.Now()
		_, errs, wait = all(2, func(i int) context.Context { return []context.Context{cancelled, short}[i] })
		time.Sleep(time.Second)
		cancel()
		synctest.Wait() // the second loads now
		thirds, thirdErrs, waitThird := all(1, plain)
		wait()
		waitThird()
		wantErr(t, "the first", errs[0], context.Canceled)
		wantErr(t, "the second", errs[1], context.DeadlineExceeded)
		if thirdErrs[0] != nil || thirds[0].Version != 1 {
			t.Errorf("the third: %v", thirdErrs[0])
		}
		if d := time.Since(start); d != 3*time.Second { // in a bubble time goes on when all wait
			t.Errorf("it took %v", d)
		}
		if n := c.loads(); n != 3 {
			t.Errorf("%d loads", n)
		}

		// Nobody waits longer than their own deadline for another's load.
		time.Sleep(10 * time.Second)
		c.backup.Set(storetest.Load, storetest.Nth(1, storetest.Stall()))
		patient, stop := context.WithCancel(t.Context())
		hurried, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		start = time.Now()
		go func() {
			<-hurried.Done()
			time.Sleep(time.Second)
			stop()
		}()
		_, errs, wait = all(2, func(i int) context.Context { return []context.Context{patient, hurried}[i] })
		wait()
		wantErr(t, "the hurried one", errs[1], context.DeadlineExceeded)
		wantErr(t, "the patient one", errs[0], context.Canceled)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("it took %v", d)
		}
		c.backup.Heal()
		c.loads()

		// A load that began too long ago is not shared: what it will show may be
		// older than MaxStale.
		gate = storetest.NewGate()
		c.backup.Set(storetest.Load, storetest.Nth(1, gate.After))
		slow := make(chan *session.Record)
		go func() {
			rec, _ := c.Load(t.Context(), token)
			slow <- rec
		}()
		<-gate.Arrived()
		change(t, c.memory, token, 2)
		time.Sleep(10 * time.Second)
		c.shows(t, "beside a slow load", token, `{"n":2}`, 2)
		gate.Open()
		if rec := <-slow; string(rec.Data) != `{"n":1}` {
			t.Errorf("the slow load shows %s", rec.Data)
		}
		c.shows(t, "after it", token, `{"n":2}`, 0)
	})
}

// Who knows of a newer version does not believe a load that began before; nor
// that there is no session.
func TestCachedSharedLoadOfAnOlderVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: time.Hour})
		for _, born := range []bool{true, false} {
			rec, token := draft()
			if born {
				mustSave(t, c.memory, rec)
			}
			gate := storetest.NewGate()
			c.backup.Set(storetest.Load, storetest.Nth(1, gate.After))
			first := make(chan error)
			go func() {
				_, err := c.Load(t.Context(), token)
				first <- err
			}()
			<-gate.Arrived()
			want := int64(1)
			if born {
				change(t, c.memory, token, 2)
				want = 2
			} else {
				mustSave(t, c.memory, rec)
			}
			c.loads()
			got := make(chan *session.Record, 20)
			for range cap(got) {
				go func() {
					rec, err := c.loadAtLeast(t.Context(), token, want)
					if err != nil {
						t.Error(err)
						rec = &session.Record{}
					}
					got <- rec
				}()
			}
			synctest.Wait()
			gate.Open()
			if err := <-first; (err == nil) != born {
				t.Errorf("the first load: %v", err)
			}
			for range cap(got) {
				if rec := <-got; rec.Version != want {
					t.Errorf("version %d of %d", rec.Version, want)
				}
			}
			if n := c.loads(); n != 1 {
				t.Errorf("%d more loads, of %d requests", n, cap(got))
			}
		}
	})
}

// A load that panics takes nobody along.
func TestCachedSharedPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, nil)
		_, token := create(t, c.memory)
		gate := storetest.NewGate()
		c.backup.Set(storetest.Load, storetest.Nth(1, func(ctx context.Context, n int, _ func() error) error {
			return gate.Before(ctx, n, func() error { panic("in the driver") })
		}))
		panicked := make(chan any)
		go func() {
			defer func() { panicked <- recover() }()
			c.Load(t.Context(), token)
		}()
		<-gate.Arrived()
		second := make(chan error)
		go func() {
			_, err := c.Load(t.Context(), token)
			second <- err
		}()
		synctest.Wait()
		gate.Open()
		if p := <-panicked; p != "in the driver" {
			t.Errorf("recovered %v", p)
		}
		if err := <-second; err == nil || errors.Is(err, session.ErrNotFound) {
			t.Errorf("the one that waited: %v", err)
		}
		if n := c.loads(); n != 1 {
			t.Errorf("%d loads", n)
		}
		c.shows(t, "afterwards", token, `{"n":1}`, 1)
	})
}

// Everything at once, for the race detector; the rest is TestCachedModel's.
func TestCachedAtOnce(t *testing.T) {
	c := newCache(t, &session.CachedOptions{MaxStale: time.Microsecond, MaxBytes: 4000})
	ids, tokens := make([]string, 8), make([]string, 8)
	for i := range tokens {
		var rec *session.Record
		rec, tokens[i] = draft()
		rec.Data, ids[i] = []byte("0"), rec.ID
		mustSave(t, c, rec)
	}
	toucher, _ := session.As[session.Toucher](c.Store)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				k := (g + i) % len(tokens)
				rec, err := c.loadAtLeast(t.Context(), tokens[k], int64(i%3))
				if err != nil {
					t.Error(err)
					return
				}
				switch (g + i) % 5 {
				case 0:
					next := *rec
					next.Data = fmt.Append(nil, i)
					if _, err := c.Save(t.Context(), &next); err != nil && !errors.Is(err, session.ErrConflict) {
						t.Error(err)
					}
				case 1:
					now := time.Now().Add(time.Duration(i) * time.Second)
					if err := toucher.Touch(t.Context(), ids[k], now, now.Add(time.Hour)); err != nil {
						t.Error(err)
					}
				case 2:
					if _, err := session.DeleteUser(t.Context(), c, "nobody", ""); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for i, token := range tokens {
		truth, copied := load(t, c.memory, token), load(t, c, token)
		if truth.Version != copied.Version || string(truth.Data) != string(copied.Data) {
			t.Errorf("session %d: %+v, copy %+v", i, truth, copied)
		}
	}
}

// The rest of what may come in between.
func TestCachedMoreThatIsOvertaken(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, c *cache, gate *storetest.Gate){
		"a load by a save whose answer is lost": func(t *testing.T, c *cache, gate *storetest.Gate) {
			_, token := create(t, c.memory)
			rec := load(t, c.memory, token)
			c.backup.Set(storetest.Load, storetest.Nth(1, gate.After))
			done := make(chan error)
			go func() { _, err := c.Load(t.Context(), token); done <- err }()
			<-gate.Arrived()
			c.backup.Set(storetest.Save, storetest.LoseAnswer(errAway))
			rec.Data = []byte(`{"n":2}`)
			_, err := c.Save(t.Context(), rec)
			wantErr(t, "save", err, errAway)
			gate.Open()
			if err := <-done; err != nil {
				t.Error(err)
			}
			c.loads()
			c.shows(t, "afterwards", token, `{"n":2}`, 1)
		},
		"a load that finds nothing by a create": func(t *testing.T, c *cache, gate *storetest.Gate) {
			rec, token := draft()
			c.backup.Set(storetest.Load, storetest.Nth(1, gate.After))
			done := make(chan error)
			go func() { _, err := c.Load(t.Context(), token); done <- err }()
			<-gate.Arrived()
			mustSave(t, c, rec)
			gate.Open()
			wantErr(t, "the load", <-done, session.ErrNotFound)
			c.loads()
			c.shows(t, "afterwards", token, `{"n":1}`, 0)
		},
		"a touch by a delete": func(t *testing.T, c *cache, gate *storetest.Gate) {
			rec, _ := create(t, c.memory)
			toucher, _ := session.As[session.Toucher](c.Store)
			touch := func() error {
				return toucher.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute))
			}
			c.backup.Set(storetest.Touch, storetest.Nth(1, gate.After))
			done := make(chan error)
			go func() { done <- touch() }()
			<-gate.Arrived()
			if err := c.Delete(t.Context(), rec.ID); err != nil {
				t.Fatal(err)
			}
			late := make(chan error)
			go func() { late <- touch() }()
			synctest.Wait()
			gate.Open()
			if err := <-done; err != nil {
				t.Error(err)
			}
			wantErr(t, "a touch that came after the delete", <-late, session.ErrNotFound)
		},
		"a copy by a touch that finds nothing": func(t *testing.T, c *cache, _ *storetest.Gate) {
			rec, token := create(t, c)
			if err := c.memory.Delete(t.Context(), rec.ID); err != nil {
				t.Fatal(err)
			}
			toucher, _ := session.As[session.Toucher](c.Store)
			err := toucher.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute))
			wantErr(t, "touch", err, session.ErrNotFound)
			_, err = c.Load(t.Context(), token)
			wantErr(t, "load", err, session.ErrNotFound)
		},
		"a load by its own request, which gives up": func(t *testing.T, c *cache, _ *storetest.Gate) {
			_, token := create(t, c)
			time.Sleep(10 * time.Minute)
			c.backup.Set(storetest.Load, storetest.Stall())
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { _, err := c.Load(ctx, token); done <- err }()
			synctest.Wait()
			cancel()
			wantErr(t, "load", <-done, context.Canceled) // and not what StaleIfDown is for
			hurried, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if rec, err := c.Load(hurried, token); err != nil || rec.Version != 1 {
				t.Errorf("the backup stalls: %+v, %v", rec, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test(t, newCache(t, &session.CachedOptions{MaxStale: 10 * time.Minute, StaleIfDown: time.Hour}), storetest.NewGate())
			})
		})
	}
}

// A Tag serves one Save: that of the request whose load it came with. What a copy
// has in its place is not the backup's business.
func TestCachedTags(t *testing.T) {
	tags := &tagged{Store: session.NewMemoryStore(nil)}
	s := session.Cached(tags, nil)
	rec, token := draft()
	mustSave(t, tags.Store, rec)
	first, second := load(t, s, token), load(t, s, token)
	for _, rec := range []*session.Record{first, second} {
		if _, err := s.Save(t.Context(), rec); err != nil && !errors.Is(err, session.ErrConflict) {
			t.Fatal(err)
		}
		if second.Tag == nil {
			t.Error("Save has changed the record")
		}
	}
	if len(tags.saved) != 2 || tags.saved[0] != "a tag" || tags.saved[1] != nil {
		t.Errorf("saved with the tags %v", tags.saved)
	}
}

type tagged struct {
	session.Store
	saved []any
}

func (s *tagged) Load(ctx context.Context, token string) (*session.Record, error) {
	rec, err := s.Store.Load(ctx, token)
	if err == nil {
		rec.Tag = "a tag"
	}
	return rec, err
}

func (s *tagged) Save(ctx context.Context, rec *session.Record) (string, error) {
	s.saved = append(s.saved, rec.Tag)
	return s.Store.Save(ctx, rec)
}
