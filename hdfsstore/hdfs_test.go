package hdfsstore_test

import (
	"context"
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

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{HDFSServers: servers.HDFS(t, 3)}
	c.super = c.client(t)
	must(t, c.super.Mkdir("/apps", 0o755))
	must(t, c.super.Chown("/apps", user, user))
	return c
}

// client returns a client of the superuser. It knows no deadline.
func (c *cluster) client(t *testing.T) *hdfs.Client {
	t.Helper()
	client, err := hdfs.NewClient(hdfs.ClientOptions{Addresses: []string{c.Namenode.Addr}, User: servers.HDFSUser})
	must(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// folder is a directory that does not exist yet.
func (c *cluster) folder() string { return "/apps/" + strconv.FormatInt(c.n.Add(1), 10) }

// store returns a store in root that is ready for use.
func (c *cluster) store(t *testing.T, root string, opts hdfsstore.Options) *hdfsstore.Store {
	t.Helper()
	s := newStore(t, []string{c.Namenode.Addr}, root, opts)
	must(t, s.Check(t.Context()))
	return s
}

// newStore returns a store that has not connected yet.
func newStore(t *testing.T, namenodes []string, root string, opts hdfsstore.Options) *hdfsstore.Store {
	t.Helper()
	if opts.User == "" {
		opts.User = user
	}
	opts.CleanEvery = -1
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

// TestHDFS is the whole of it on one cluster, for that takes ten seconds to
// start. The last subtests hurt it.
func TestHDFS(t *testing.T) {
	c := newCluster(t)
	t.Run("store", func(t *testing.T) { storetest.Run(t, c.fresh) })
	t.Run("over HTTP", func(t *testing.T) { storetest.RunHTTP(t, c.fresh) })
	t.Run("two processes", func(t *testing.T) { ledger.TwoProcesses(t, c.url(c.folder()), 4, 200) })
}

var _ = context.Background
var _ = time.Now
