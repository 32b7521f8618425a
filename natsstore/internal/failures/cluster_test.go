package failures_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/natsstore"
)

const (
	maxStale = 2 * time.Second
	startUp  = 2 * time.Minute // that a node may take to be ready, on a busy machine
)

// member is one node, as the outside sees it.
type member struct {
	config  nodeConfig
	process *servers.Process
	client  *http.Client

	asked   atomic.Pointer[time.Time] // when the balancer last asked, if the answer was that it is ready
	held    atomic.Bool               // and must not: it is taken out
	leaving atomic.Bool               // requests that are under way here may fail
}

// cluster are three nodes in processes of their own, and the balancer that asks
// each whether it is ready.
type cluster struct {
	t       testing.TB
	members []*member
}

// start starts three nodes and waits until all are ready. change, which may be
// nil, completes a node's configuration; within is what comes before a program
// that is to run where its node lives.
func start(t testing.TB, d natsstore.Durability, change func(i int, c *nodeConfig), within func(i int) []string) *cluster {
	t.Helper()
	if os.Getenv("SESSION_SERVERS") == "none" {
		t.Skip("SESSION_SERVERS=none: no node is started")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "nodes") // short: a socket's path has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	var addrs []string
	for range 3 {
		addrs = append(addrs, "127.0.0.1:"+servers.FreePort(t))
	}
	c := &cluster{t: t}
	for i, addr := range addrs {
		config := nodeConfig{
			Name: "n" + strconv.Itoa(i), Listen: addr, Voters: addrs, Dir: filepath.Join(t.TempDir(), "node"),
			Durability: d, MaxStale: maxStale, Timeout: 4 * time.Second, // not the manager's second, which passes by itself on a busy machine
			Socket: filepath.Join(sockets, "n"+strconv.Itoa(i)),
		}
		if change != nil {
			change(i, &config)
		}
		text, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{program, nodeCommand, string(text)}
		if within != nil {
			args = append(within(i), args...)
		}
		m := &member{config: config, process: servers.Start(t, t.TempDir(), args...), client: unixClient(config.Socket)}
		t.Cleanup(m.client.CloseIdleConnections)
		c.members = append(c.members, m)
	}
	c.balance()
	for _, m := range c.members {
		c.waitServing(m)
	}
	return c
}

// unixClient speaks to the application behind a socket.
func unixClient(path string) *http.Client {
	return &http.Client{
		Timeout: 6 * time.Second,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 64,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
		},
	}
}

// ask sends one request to a node and returns the answer.
func (m *member) ask(ctx context.Context, method, path, token string) (status int, body []byte, header http.Header, err error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+m.config.Name+path, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w, err := m.client.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer w.Body.Close()
	body, err = io.ReadAll(w.Body)
	return w.StatusCode, body, w.Header, err
}

// balance asks each node, many times a second, whether it is ready.
func (c *cluster) balance() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	for _, m := range c.members {
		go func() {
			defer func() { done <- struct{}{} }()
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				at := time.Now()
				if m.held.Load() || m.ready(ctx) != nil {
					m.asked.Store(nil)
				} else {
					m.asked.Store(&at)
				}
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		}()
	}
	c.t.Cleanup(func() {
		cancel()
		for range c.members {
			<-done
		}
	})
}

// serving tells whether the balancer sends requests here.
func (m *member) serving() bool { return m.asked.Load() != nil }

// ready is nil if the node says that it is.
func (m *member) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, body, _, err := m.ask(ctx, "GET", "/ready", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %s", status, body)
	}
	return err
}

// waitServing waits until a node that is asked from now on is ready, so that it
// gets requests, and tells how long that took.
func (c *cluster) waitServing(m *member) time.Duration {
	c.t.Helper()
	began, said := time.Now(), map[string]bool{}
	servers.Wait(c.t, m.config.Name+" is ready", startUp, func(ctx context.Context) error {
		if at := m.asked.Load(); at != nil && at.After(began) {
			return nil
		}
		err := m.ready(ctx)
		if why := fmt.Sprint(err); err != nil && !said[why] && len(said) < 8 {
			said[why] = true
			c.t.Logf("%s is not ready after %v: %s", m.config.Name, time.Since(began).Round(time.Millisecond), strings.TrimSpace(why))
		}
		return fmt.Errorf("not ready: %w", err)
	})
	return time.Since(began)
}

// takeOut keeps requests away from a node. Those under way go on.
func (c *cluster) takeOut(m *member) {
	m.held.Store(true)
	servers.Wait(c.t, m.config.Name+" is out", startUp, func(context.Context) error {
		if m.serving() {
			return errors.New("still in")
		}
		return nil
	})
}

// pick returns a node that gets requests, another one for each n; nil if none
// does.
func (c *cluster) pick(n int) *member {
	for i := range c.members {
		if m := c.members[(n+i)%len(c.members)]; m.serving() {
			return m
		}
	}
	return nil
}

// status is what a node says of itself and the leader.
type status struct {
	Leader string
	First  int    // sessions in the copy when it was first ready
	Lag    uint64 // and changes that it did not have on its disk then
}

func (m *member) status(ctx context.Context) (st status, err error) {
	code, body, _, err := m.ask(ctx, "GET", "/status", "")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%d: %s", code, body)
	}
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(body, &st)
}

// leader returns the node that leads the sessions' stream, as this one knows it.
func (c *cluster) leader(from *member) *member {
	c.t.Helper()
	var leader *member
	servers.Wait(c.t, "a leader", startUp, func(ctx context.Context) error {
		st, err := from.status(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(c.members, func(m *member) bool { return m.config.Name == st.Leader })
		if i < 0 {
			return fmt.Errorf("%q leads", st.Leader)
		}
		leader = c.members[i]
		return nil
	})
	return leader
}

// others are all nodes but this one.
func (c *cluster) others(m *member) []*member {
	return slices.DeleteFunc(slices.Clone(c.members), func(o *member) bool { return o == m })
}

// long asks a node for something that takes its time.
func (c *cluster) long(m *member, method, path string) string {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, "http://node"+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	w, err := (&http.Client{Transport: m.client.Transport}).Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	if err != nil || w.StatusCode != http.StatusOK {
		c.t.Fatalf("%s %s on %s: %d %s, %v", method, path, m.config.Name, w.StatusCode, text, err)
	}
	return string(text)
}
