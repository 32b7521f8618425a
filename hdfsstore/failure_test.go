package hdfsstore_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hdfsstore"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
)

// A directory that may have no more: changes fail, what is there can be read,
// touched and ended, and all works again when there is room.
func (c *cluster) testFull(t *testing.T) {
	root := c.folder()
	s := c.store(t, root, hdfsstore.Options{})
	rec, token := create(t, s)
	_, other := create(t, s)
	c.Admin(t, "-setSpaceQuota", "1m", root)
	loaded := load(t, s, token)
	_, err := s.Save(t.Context(), loaded)
	failed(t, "save", err)
	if err != nil && !strings.Contains(err.Error(), "QuotaExceeded") {
		t.Errorf("save: %v; want the reason", err)
	}
	_, err = s.Save(t.Context(), &session.Record{ID: session.ID(session.NewToken()), Expires: time.Now().Add(time.Hour)})
	failed(t, "create", err)
	if got := load(t, s, token); got.Version != 1 || string(got.Data) != string(rec.Data) {
		t.Errorf("version %d with %s", got.Version, got.Data)
	}
	must(t, s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)))
	must(t, s.Delete(t.Context(), session.ID(other)))
	_, err = s.Load(t.Context(), other)
	wantErr(t, "load", err, session.ErrNotFound)
	c.Admin(t, "-clrSpaceQuota", root)
	save(t, s, loaded)
	if got := load(t, s, token); got.Version != 2 {
		t.Errorf("version %d", got.Version)
	}
}

// A namenode in safe mode keeps what it has; it is not ready, and no session is
// "not found".
func (c *cluster) testSafeMode(t *testing.T) {
	root := c.folder()
	s := c.store(t, root, hdfsstore.Options{})
	rec, token := create(t, s)
	c.Admin(t, "-safemode", "enter")
	loaded := load(t, s, token)
	_, err := s.Save(t.Context(), loaded)
	failed(t, "save", err)
	failed(t, "touch", s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)))
	failed(t, "delete", s.Delete(t.Context(), rec.ID))
	err = s.Check(t.Context())
	failed(t, "check", err)
	if err != nil && !strings.Contains(err.Error(), "-safemode leave") {
		t.Errorf("check: %v; want the mend", err)
	}
	c.Admin(t, "-safemode", "leave")
	save(t, s, loaded)
	must(t, s.Check(t.Context()))
}

// Half of a write's time is left when a datanode does not answer, and no
// goroutine is when it never does.
func (c *cluster) testDatanodeFreezes(t *testing.T) {
	root := c.folder()
	c.store(t, root, hdfsstore.Options{})
	before := runtime.NumGoroutine()
	s, err := hdfsstore.New([]string{c.Namenode.Addr}, root, &hdfsstore.Options{User: user})
	must(t, err)
	_, token := create(t, s)
	c.Datanodes[0].Pause()
	saved := int64(1)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		rec, err := s.Load(ctx, token)
		if err == nil {
			_, err = s.Save(ctx, rec)
		}
		cancel()
		if err == nil {
			saved++
		} else {
			failed(t, "save", err)
		}
	}
	c.Datanodes[0].Resume()
	c.WaitReady(t)
	if got := load(t, s, token); got.Version < saved || saved < 10 {
		t.Errorf("version %d, %d acknowledged", got.Version, saved)
	}
	must(t, s.Close())
	left(t, before)
}

// pausing pauses when a load fails, as people do before they try again: a
// ledger's workers would keep the servers from starting on a small machine.
type pausing struct{ session.Store }

func (p pausing) Load(ctx context.Context, token string) (*session.Record, error) {
	rec, err := p.Store.Load(ctx, token)
	if err != nil {
		time.Sleep(50 * time.Millisecond)
	}
	return rec, err
}

// Nothing that was acknowledged is lost, whatever dies, and the store goes on
// without being opened again.
func (c *cluster) testServersDie(t *testing.T) {
	s := c.store(t, c.folder(), hdfsstore.Options{})
	for _, tt := range []struct {
		name string
		hurt func(l *ledger.Ledger)
	}{
		{"a datanode is killed", func(l *ledger.Ledger) {
			c.Datanodes[0].Kill()
			l.Progress()
			c.Restart(t, c.Datanodes[0])
		}},
		{"the namenode is killed", func(l *ledger.Ledger) {
			c.Namenode.Kill()
			l.Fails()
			c.Restart(t, c.Namenode)
		}},
		{"the namenode freezes", func(l *ledger.Ledger) {
			c.Namenode.Pause()
			l.Fails()
			c.Namenode.Resume()
			c.WaitReady(t)
		}},
		{"all are killed", func(l *ledger.Ledger) {
			all := append([]*servers.HDFSDaemon{c.Namenode}, c.Datanodes...)
			for _, d := range all {
				d.Kill()
			}
			l.Fails()
			c.Restart(t, all...)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := ledger.Start(t, pausing{s}, 4, 8)
			l.During(tt.name, func() { tt.hurt(l) })
			l.Progress()
			if lost := l.Check(); lost != 0 {
				t.Errorf("%d acknowledged changes are lost", lost)
			}
		})
	}
}
