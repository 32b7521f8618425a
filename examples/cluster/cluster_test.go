package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session/natsstore"
)

// cluster is the whole program but its listener.
type cluster struct {
	t     *testing.T
	nodes nodes
	url   string
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	ns, err := newNodes(config{nodes: 3, dir: t.TempDir(), consistency: natsstore.Local})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.end)
	for _, n := range ns {
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := newFront(ns)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(f.handler)
	t.Cleanup(func() {
		srv.Close()
		f.proxy.Shutdown(context.Background())
	})
	c := &cluster{t: t, nodes: ns, url: srv.URL}
	c.wait("all nodes are ready", func(rows []nodeStatus) bool { return ready(rows) == len(rows) })
	return c
}

// status is what the page shows to a visitor without a session.
func (c *cluster) status() (rows []nodeStatus) {
	c.t.Helper()
	res, err := http.Get(c.url + "/cluster/status")
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&rows); err != nil {
		c.t.Fatal(err)
	}
	return rows
}

func (c *cluster) wait(what string, done func([]nodeStatus) bool) []nodeStatus {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		rows := c.status()
		if done(rows) {
			return rows
		}
		if time.Now().After(end) {
			c.t.Fatalf("after a minute still not: %s; %+v", what, rows)
		}
	}
}

// ready counts the nodes that the balancer sends requests to.
func ready(rows []nodeStatus) (n int) {
	for _, r := range rows {
		if r.Report != nil && r.Report.Ready == "" && r.Balance == "up" {
			n++
		}
	}
	return n
}

// act presses a button of the page, and returns the status code.
func (c *cluster) act(node, action string) int {
	c.t.Helper()
	res, err := http.Post(c.url+"/cluster/nodes/"+node+"/"+action, "", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func (c *cluster) must(node, action string) {
	c.t.Helper()
	if code := c.act(node, action); code != http.StatusNoContent {
		c.t.Fatalf("%s %s: %d", action, node, code)
	}
}

// visitor clicks, and keeps the page's ledger.
type visitor struct {
	client                            http.Client
	acknowledged, unanswered, highest int
	answeredBy                        map[string]bool
	progress                          atomic.Int64
	unexpected                        string
}

func (c *cluster) click(ctx context.Context, v *visitor) {
	res, err := v.client.Post(c.url+"/count", "", nil)
	if err != nil {
		v.unanswered++
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	var got counted
	switch {
	case res.StatusCode >= 500:
		v.unanswered++
	case res.StatusCode != http.StatusOK || json.Unmarshal(body, &got) != nil:
		v.unexpected = res.Status + " " + string(body)
	case got.Clicks <= v.highest: // one visitor's clicks come one after the other
		v.unexpected = "the counter went back"
	default:
		v.acknowledged++
		v.highest = got.Clicks
		v.answeredBy[got.Node] = true
		v.progress.Add(1)
	}
}

func TestNothingIsLost(t *testing.T) {
	c := startCluster(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	visitors := make([]*visitor, 4)
	for i := range visitors {
		jar, _ := cookiejar.New(nil)
		v := &visitor{client: http.Client{Jar: jar, Timeout: 10 * time.Second}, answeredBy: map[string]bool{}}
		visitors[i] = v
		wg.Go(func() {
			for ctx.Err() == nil {
				c.click(ctx, v)
				time.Sleep(5 * time.Millisecond) // a quick finger
			}
		})
	}
	onward := func(what string) {
		t.Helper()
		var from []int64
		for _, v := range visitors {
			from = append(from, v.progress.Load())
		}
		c.wait("everybody's clicks are answered "+what, func([]nodeStatus) bool {
			for i, v := range visitors {
				if v.progress.Load() < from[i]+5 {
					return false
				}
			}
			return true
		})
	}
	whole := func() {
		t.Helper()
		c.wait("all nodes are ready", func(rows []nodeStatus) bool { return ready(rows) == len(rows) })
	}
	is := func(node string, want state) {
		t.Helper()
		c.wait("node "+node+" is "+string(want), func(rows []nodeStatus) bool {
			for _, r := range rows {
				if r.Name == node {
					return r.State == want
				}
			}
			return false
		})
	}

	onward("at the start")
	c.must("a", "stop")
	is("a", stopped)
	onward("with one node stopped")
	c.must("a", "start")
	whole()

	leader := c.wait("there is a leader", func(rows []nodeStatus) bool { return rows[0].Report != nil && rows[0].Report.Leader != "" })[0].Report.Leader
	c.must(leader, "kill")
	is(leader, killed)
	onward("with the leader killed")
	c.must(leader, "start-empty")
	whole()

	c.must("c", "pause")
	onward("with one node frozen")
	c.must("c", "resume")
	whole()
	onward("at the end")
	stop()
	wg.Wait()

	for i, v := range visitors {
		if v.unexpected != "" {
			t.Errorf("visitor %d: %s", i, v.unexpected)
		}
		if v.acknowledged > v.highest || v.highest > v.acknowledged+v.unanswered {
			t.Errorf("visitor %d: %d clicks were acknowledged and %d not answered, and the counter is %d", i, v.acknowledged, v.unanswered, v.highest)
		}
		if len(v.answeredBy) != len(c.nodes) {
			t.Errorf("visitor %d was answered by %v only", i, v.answeredBy)
		}
		t.Logf("visitor %d: %d acknowledged, %d not answered, counter %d", i, v.acknowledged, v.unanswered, v.highest)
	}
}

func TestButtons(t *testing.T) {
	ns, err := newNodes(config{nodes: 3, dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	f, err := newFront(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer f.proxy.Shutdown(context.Background())
	for _, tt := range []struct {
		why, method, target, host, site string
		want                            int
	}{
		{"the page", "GET", "/cluster", "localhost:8080", "", 200},
		{"by address", "GET", "/cluster", "[::1]:8080", "", 200},
		{"a name that somebody pointed here", "GET", "/cluster/status", "evil.example", "", 403},
		{"a button on another site", "POST", "/cluster/nodes/a/kill", "localhost", "cross-site", 403},
		{"no such node", "POST", "/cluster/nodes/z/kill", "localhost", "same-origin", 404},
		{"no such action", "POST", "/cluster/nodes/a/explode", "localhost", "same-origin", 404},
		{"it does not run", "POST", "/cluster/nodes/a/kill", "localhost", "same-origin", 409},
		{"nor is it frozen", "POST", "/cluster/nodes/a/resume", "localhost", "same-origin", 409},
		{"a link is no button", "GET", "/cluster/nodes/a/kill", "localhost", "", 405},
	} {
		r := httptest.NewRequest(tt.method, tt.target, nil)
		r.Host = tt.host
		if tt.site != "" {
			r.Header.Set("Sec-Fetch-Site", tt.site)
		}
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s: %d, want %d", tt.why, w.Code, tt.want)
		}
	}
}
