package proof

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/servers"
)

// fleet is the application's nodes, each a process of its own.
type fleet struct {
	nodes  []*member
	backup string        // host and port of the Redis behind them; "": plain memory
	stale  time.Duration // MaxStale
	hung   time.Duration // HeaderTimeout of package sticky
	dir    string
}

// member is one node as its fleet sees it.
type member struct {
	*servers.Process
	config nodeConfig
	link   *faults.Proxy // between the node and the backup
}

// maxStale is the MaxStale of the nodes, and what the users hold them to.
const maxStale = time.Second

// newFleet starts three nodes. With a backup they answer from copies of its
// sessions that are not older than stale; without, each has sessions of its own.
func newFleet(t *testing.T, backed bool, stale time.Duration) *fleet {
	t.Helper()
	l, err := net.Listen("tcp", "127.1.0.1:0")
	if err != nil {
		servers.Lacking(t, "this system has one IPv4 loopback address only: "+err.Error())
	}
	l.Close()
	f := &fleet{dir: t.TempDir(), stale: stale}
	if backed {
		f.backup = newBackup(t)
	}
	for range 3 {
		f.add(t)
	}
	for _, m := range f.nodes {
		m.ready(t)
	}
	return f
}

// newBackup is a real Redis where there is one.
func newBackup(t *testing.T) string {
	t.Helper()
	if os.Getenv("SESSION_SERVERS") == "none" {
		return miniredis.RunT(t).Addr()
	}
	return servers.Redis(t).Addr
}

// add starts one more node.
func (f *fleet) add(t *testing.T) *member {
	t.Helper()
	name := fmt.Sprintf("n%d", len(f.nodes)+1)
	m := &member{config: nodeConfig{
		Name: name, Addr: "127.0.0.1:" + servers.FreePort(t), MaxStale: f.stale, Log: filepath.Join(f.dir, name),
	}}
	if f.backup != "" {
		m.link = faults.NewProxy(t, f.backup)
		m.config.Backup = "redis://" + m.link.Addr + "?read_timeout=5s&dial_timeout=5s" // the machine may be busy
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(m.config)
	if err != nil {
		t.Fatal(err)
	}
	m.Process = servers.Start(t, f.dir, program, nodeArg, string(config))
	f.nodes = append(f.nodes, m)
	return m
}

func (f *fleet) addrs() []string {
	var addrs []string
	for _, m := range f.nodes {
		addrs = append(addrs, m.config.Addr)
	}
	return addrs
}

// logged returns the nodes that got each POST, and those that ran it.
func (f *fleet) logged(t *testing.T) (got, ran map[string][]string) {
	t.Helper()
	got, ran = map[string][]string{}, map[string][]string{}
	for _, m := range f.nodes {
		file, err := os.Open(m.config.Log)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			what, id, _ := strings.Cut(lines.Text(), " ")
			nodes := got
			if what == "ran" {
				nodes = ran
			}
			nodes[id] = append(nodes[id], m.config.Name)
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return got, ran
}

// stored returns what the backup has of a session.
func (f *fleet) stored(ctx context.Context, token string) (all numbers, err error) {
	client := redis.NewClient(&redis.Options{Addr: f.backup})
	defer client.Close()
	rec, err := session.NewRedisStore(client, nil).Load(ctx, token)
	if err != nil {
		return all, err
	}
	return all, json.Unmarshal(rec.Data, &all) // {"a":[1],"b":[1,2]}: the case is nothing to Unmarshal
}

// ready waits until the node answers.
func (m *member) ready(t *testing.T) {
	t.Helper()
	servers.Wait(t, "node "+m.config.Name, time.Minute, func(ctx context.Context) error {
		_, err := m.ask(ctx, "GET", "/-/requests")
		return err
	})
}

// restart starts the node again, on its own address and with nothing in memory.
func (m *member) restart(t *testing.T) {
	t.Helper()
	m.Again(t)
	m.ready(t)
}

// quiet waits until the node has had no request for a while.
func (m *member) quiet(t *testing.T) {
	t.Helper()
	var last string
	since := time.Now()
	servers.Wait(t, "an end of the requests to "+m.config.Name, time.Minute, func(ctx context.Context) error {
		n, err := m.ask(ctx, "GET", "/-/requests")
		switch {
		case err != nil:
			return err
		case n != last:
			last, since = n, time.Now()
		case time.Since(since) > 500*time.Millisecond:
			return nil
		}
		return fmt.Errorf("%s requests so far", n)
	})
}

// leave makes the node answer its health checks with 503.
func (m *member) leave(t *testing.T) {
	t.Helper()
	if _, err := m.ask(t.Context(), "POST", "/-/leave"); err != nil {
		t.Fatal(err)
	}
}

// ask makes a request past the balancer.
func (m *member) ask(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+m.config.Addr+path, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, res.Status)
	}
	return strings.TrimSpace(string(body)), err
}
