package hdfsstore_test

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/colinmarc/hdfs/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/hdfsstore"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/storetest"
)

func TestMain(m *testing.M) { ledger.Main(m) }

// user is who keeps sessions: nobody special.
const user = "app"

// cluster is an HDFS on which every test has a folder of its own.
type cluster struct {
	*servers.HDFSServers
	super *hdfs.Client // for the test's own calls
	n     atomic.Int64
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{HDFSServers: servers.HDFS(t, 3)}
	c.super = c.client(t)
	must(t, c.super.Mkdir("/apps", 0o755))
	must(t, c.super.Chown("/apps", user, user))
	return c
}

// client returns a client of the superuser. It knows no deadline.
func (c *cluster) client(t testing.TB) *hdfs.Client {
	t.Helper()
	client, err := hdfs.NewClient(hdfs.ClientOptions{Addresses: []string{c.Namenode.Addr}, User: servers.HDFSUser})
	must(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// folder is a directory that does not exist yet.
func (c *cluster) folder() string { return "/apps/" + strconv.FormatInt(c.n.Add(1), 10) }

// store returns a store in root that is ready for use.
func (c *cluster) store(t testing.TB, root string, opts hdfsstore.Options) *hdfsstore.Store {
	t.Helper()
	s := newStore(t, []string{c.Namenode.Addr}, root, opts)
	must(t, s.Check(t.Context()))
	return s
}

// newStore returns a store that has not connected yet.
func newStore(t testing.TB, namenodes []string, root string, opts hdfsstore.Options) *hdfsstore.Store {
	t.Helper()
	if opts.User == "" {
		opts.User = user
	}
	s, err := hdfsstore.New(namenodes, root, &opts)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func (c *cluster) url(root string, params ...string) string {
	q := url.Values{"user": {user}}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	return "hdfs://" + c.Namenode.Addr + root + "?" + q.Encode()
}

// fresh is a folder with a clock.
func (c *cluster) fresh(t *testing.T) storetest.Backend {
	root, clock := c.folder(), &storetest.Clock{}
	return storetest.Backend{
		Open:    func() session.Store { return c.store(t, root, hdfsstore.Options{Now: clock.Now}) },
		Advance: clock.Advance,
	}
}

// create saves a new session and returns it and its token.
func create(t *testing.T, s session.Store) (*session.Record, string) {
	t.Helper()
	token := session.NewToken()
	now := time.Now()
	rec := &session.Record{
		ID: session.ID(token), User: "ann", Created: now, SignedIn: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(2 * time.Hour), Data: []byte(`{"n":1}`),
	}
	save(t, s, rec)
	return rec, token
}

func save(t testing.TB, s session.Store, rec *session.Record) {
	t.Helper()
	_, err := s.Save(t.Context(), rec)
	must(t, err)
}

func load(t testing.TB, s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	must(t, err)
	return rec
}

// wantErr checks that err is want, which may be nil.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
}

// failed checks that err says that the store failed, and nothing about a
// session.
func failed(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) || errors.Is(err, session.ErrConfig) {
		t.Errorf("%s: %v; want the failure of a store", what, err)
	}
}

// calls are one of each of a store's.
func calls(s *hdfsstore.Store, rec *session.Record, token string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"load":   func(ctx context.Context) error { _, err := s.Load(ctx, token); return err },
		"save":   func(ctx context.Context) error { _, err := s.Save(ctx, rec); return err },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, rec.ID) },
		"touch": func(ctx context.Context) error {
			return s.Touch(ctx, rec.ID, rec.Seen.Add(time.Second), rec.Expires.Add(time.Second))
		},
		"list": func(ctx context.Context) (last error) {
			for _, err := range s.List(ctx, rec.User) {
				last = err
			}
			return last
		},
		"delete user": func(ctx context.Context) error { _, err := s.DeleteUser(ctx, rec.User, ""); return err },
		"scan": func(ctx context.Context) (last error) {
			for _, err := range s.Scan(ctx) {
				last = err
			}
			return last
		},
		"clean": func(ctx context.Context) error { _, err := s.Clean(ctx, time.Now(), 0); return err },
		"check": s.Check,
	}
}

// TestHDFS is all that takes a cluster: it has one, for that takes ten seconds
// to start. What hurts the cluster comes last.
func TestHDFS(t *testing.T) {
	c := newCluster(t)
	t.Run("store", func(t *testing.T) { storetest.Run(t, c.fresh) })
	t.Run("over HTTP", func(t *testing.T) { storetest.RunHTTP(t, c.fresh) })
	t.Run("two processes", c.testTwoProcesses)
	t.Run("check", c.testCheck)
	t.Run("directory", c.testDirectory)
	t.Run("clocks differ", c.testClocks)
	t.Run("half-open", c.testHalfOpen)
	t.Run("lost answers", c.testLostAnswers)
	t.Run("several namenodes", c.testNamenodes)
	t.Run("away at the start", c.testAwayAtStart)
	t.Run("full", c.testFull)
	t.Run("safe mode", c.testSafeMode)
	t.Run("a datanode freezes", c.testDatanodeFreezes)
	t.Run("servers die", c.testServersDie)
}

func (c *cluster) testTwoProcesses(t *testing.T) {
	additions := 200
	if testing.Short() {
		additions = 25
	}
	ledger.TwoProcesses(t, c.url(c.folder()), 4, additions)
}
