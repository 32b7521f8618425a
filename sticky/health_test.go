package sticky_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/sticky"
)

var checked = sticky.Health{Path: "/health", Interval: time.Second, Timeout: 500 * time.Millisecond, Fall: 2, Rise: 2, SlowStart: -1}

// wait lets time pass, and everything that is due then happen.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// moment is just after the checks that are due.
const moment = 10 * time.Millisecond

func expectState(t *testing.T, p *sticky.Proxy, id, want, when string) {
	t.Helper()
	if s := stateOf(t, p, id); s.State != want {
		t.Errorf("%s: %s is %s (%s); want %s", when, id, s.State, s.Reason, want)
	}
}

func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		p := c.proxy(sticky.Options{Health: checked, Keys: [][]byte{key(1)}}, "a", "b")
		wait(moment)
		expectState(t, p, "a", "up", "at first")

		c.at("a").setHealth(500)
		wait(time.Second)
		expectState(t, p, "a", "up", "one failure of two")
		c.at("a").setHealth(204)
		wait(time.Second)
		c.at("a").setHealth(500)
		wait(time.Second)
		expectState(t, p, "a", "up", "failures not in a row")
		wait(time.Second)
		expectState(t, p, "a", "down", "two failures in a row")
		for range 20 {
			if got := serve(p, request("GET", v4(1))).Body.String(); got != "b" {
				t.Fatalf("%s served while a is down", got)
			}
		}

		c.at("a").setHealth(302)
		wait(time.Second)
		expectState(t, p, "a", "down", "one good answer of two")
		c.at("a").setHealth(404)
		wait(time.Second)
		c.at("a").setHealth(200)
		wait(time.Second)
		expectState(t, p, "a", "down", "good answers not in a row")
		wait(time.Second)
		expectState(t, p, "a", "up", "two good answers in a row")

		c.at("a").setHealth(503)
		wait(time.Second)
		expectState(t, p, "a", "leaving", "503 once")
		if got := serve(p, request("GET", v4(1), withCookie("affinity="+sticky.CookieValue(key(1), "a")))); got.Body.String() != "b" {
			t.Errorf("%s served though a is leaving", got.Body)
		}
		c.at("a").set(refuses)
		wait(time.Second)
		expectState(t, p, "a", "leaving", "gone, one check of two")
		wait(time.Second)
		expectState(t, p, "a", "down", "gone")
		expectState(t, p, "b", "up", "at the end")
	})
}

func TestCheckTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		p := c.proxy(sticky.Options{Health: checked}, "a", "b")
		wait(moment)
		c.at("a").set(silent)
		wait(3 * time.Second)
		expectState(t, p, "a", "down", "packets are dropped")
		if s := stateOf(t, p, "a"); s.Reason == "" || s.Since.IsZero() {
			t.Errorf("down for no reason: %+v", s)
		}
	})
}

func TestConnectIsACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		p := c.proxy(sticky.Options{Health: sticky.Health{SlowStart: -1}}, "a", "b")
		wait(moment)
		c.at("a").set(refuses)
		wait(2 * time.Second)
		expectState(t, p, "a", "down", "connections are refused")
		c.at("a").set(up)
		wait(2 * time.Second)
		expectState(t, p, "a", "up", "connections are taken")
	})
}

// A node that was never seen alive is not given two chances.
func TestFirstCheckCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		c.at("a").set(refuses)
		p := c.proxy(sticky.Options{Health: checked}, "a", "b")
		wait(moment)
		expectState(t, p, "a", "down", "after the first check")
	})
}

func TestRefusedConnectionCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		p := c.proxy(sticky.Options{By: sticky.ByIP(), Health: checked}, "a", "b")
		wait(moment)
		user := userOf(t, p, "a")
		c.at("a").set(refuses)
		if w := serve(p, request("POST", user)); w.Body.String() != "b" {
			t.Errorf("%d %s; want b", w.Code, w.Body)
		}
		expectState(t, p, "a", "down", "after one refused connection")
		if s := stateOf(t, p, "a"); s.Refused != 1 {
			t.Errorf("%d refused", s.Refused)
		}
		c.at("a").set(up)
		wait(time.Second)
		expectState(t, p, "a", "down", "one good check")
		wait(time.Second)
		expectState(t, p, "a", "up", "two good checks")
		if w := serve(p, request("POST", user)); w.Body.String() != "a" {
			t.Errorf("the user did not come home: %s", w.Body)
		}
	})
}

// userOf is the address of a user of this node.
func userOf(t *testing.T, p http.Handler, id string) string {
	t.Helper()
	for i := range 1000 {
		if serve(p, request("GET", v4(i))).Body.String() == id {
			return v4(i)
		}
	}
	t.Fatalf("no user of %s", id)
	return ""
}

func TestHeaderTimeoutsWithinAWindow(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			c.way = way
			h := checked
			h.Fails, h.Window = 3, 10*time.Second
			p := c.proxy(sticky.Options{By: sticky.ByIP(), Health: h, HeaderTimeout: time.Second}, "a", "b")
			wait(moment)
			user := userOf(t, p, "a")
			c.at("a").handle(hang)
			hangs := func() {
				if w := serve(p, request("POST", user)); w.Code != http.StatusGatewayTimeout {
					t.Errorf("a POST to a node that hangs: %d; want 504", w.Code)
				}
			}
			hangs()
			hangs()
			expectState(t, p, "a", "up", "two timeouts")
			wait(11 * time.Second)
			hangs()
			expectState(t, p, "a", "up", "the third, too late")
			hangs()
			hangs()
			expectState(t, p, "a", "down", "three within the window")
		})
	})
}

// What a client can cause takes no node out: a page that is slow while others
// are not, and a handler that panics, which closes the connection.
func TestPagesTakeNoNodeOut(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			c.way = way
			p := c.proxy(sticky.Options{By: sticky.ByIP(), Health: checked, HeaderTimeout: time.Second}, "a", "b")
			wait(moment)
			user := userOf(t, p, "a")
			for _, id := range []string{"a", "b"} {
				c.at(id).handle(func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/slow":
						hang(w, r)
					case "/panic":
						panic(http.ErrAbortHandler)
					}
				})
			}
			at := func(path string) *http.Request {
				return request("POST", user, func(r *http.Request) { r.URL.Path = path })
			}
			for range 10 {
				if w := serve(p, at("/panic")); w.Code != 502 {
					t.Errorf("/panic: %d", w.Code)
				}
				if w := serve(p, at("/slow")); w.Code != 504 {
					t.Errorf("/slow: %d", w.Code)
				}
				if w := serve(p, at("/")); w.Code != 200 {
					t.Errorf("/: %d", w.Code)
				}
			}
			for range 10 {
				get := at("/panic")
				get.Method = "GET"
				serve(p, get)
			}
			expectState(t, p, "a", "up", "after all that")
			expectState(t, p, "b", "up", "after all that")
		})
	})
}

// hang does not answer until the client goes.
func hang(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// A node that takes no more of the body is not waited for either.
func TestNodeTakesNoBody(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a")
			c.way = way
			p := c.proxy(sticky.Options{Health: unchecked, HeaderTimeout: time.Second}, "a")
			stop := make(chan struct{})
			c.at("a").handle(func(w http.ResponseWriter, r *http.Request) { <-stop })
			r := request("POST", v4(1))
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", 1<<20))), 1<<20
			begin := time.Now()
			if w := serve(p, r); w.Code != http.StatusGatewayTimeout || time.Since(begin) > 2*time.Second {
				t.Errorf("%d after %v; want 504 after a second", w.Code, time.Since(begin))
			}
			close(stop)
		})
	})
}

// What this process ran out of is no node's fault.
func TestOwnShortageCountsForNobody(t *testing.T) {
	p := newProxy(t, named("a", "b"), sticky.Options{
		Health: unchecked,
		Dial:   failDial(),
	})
	for range 5 {
		if w := serve(p, request("GET", v4(1))); w.Code != http.StatusBadGateway {
			t.Errorf("%d; want 502", w.Code)
		}
	}
	for _, id := range []string{"a", "b"} {
		expectState(t, p, id, "up", "after EMFILE")
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		h := checked
		h.SlowStart = 100 * time.Second
		p := c.proxy(sticky.Options{By: sticky.ByIP(), Health: h, Transport: sayNode}, "a", "b", "c")
		before := where(p)
		wait(moment)
		if err := p.Remove("a"); err != nil {
			t.Fatal(err)
		}
		without := where(p)
		if err := p.Add(named("a")[0]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		back := make([]bool, users)
		for part := 0; part <= 10; part++ {
			home := 0
			for i, at := range where(p) {
				switch {
				case at == "a":
					back[i] = true
					home++
				case back[i]:
					t.Fatalf("user %d came home and went away again", i)
				case at != without[i]:
					t.Fatalf("user %d went from %s to %s while a comes back", i, without[i], at)
				}
				if before[i] != "a" && at != before[i] {
					t.Fatalf("user %d never was on a, and moved from %s to %s", i, before[i], at)
				}
			}
			within(t, fmt.Sprintf("%d0 %% of the time", part), home, float64(part)/10/3)
			want := "starting"
			if part == 10 {
				want = "up"
			}
			expectState(t, p, "a", want, fmt.Sprint(part))
			wait(10 * time.Second)
		}
	})
}

// An added node waits for its first check.
func TestAddedNodeIsCheckedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		c.at("b").set(refuses)
		p := c.proxy(sticky.Options{By: sticky.ByIP(), Health: checked}, "a")
		wait(moment)
		if err := p.Add(named("b")[0]); err != nil {
			t.Fatal(err)
		}
		expectState(t, p, "b", "new", "at once")
		for i := range 50 {
			if got := serve(p, request("GET", v4(i))).Body.String(); got != "a" {
				t.Fatalf("%s served", got)
			}
		}
		synctest.Wait()
		expectState(t, p, "b", "down", "checked")
		c.at("b").set(up)
		wait(2 * time.Second)
		expectState(t, p, "b", "up", "checked twice")
		userOf(t, p, "b")
	})
}

func TestCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		p := c.proxy(sticky.Options{Health: checked, MaxInFlight: 2, Keys: [][]byte{key(1)}}, "a", "b")
		wait(moment)
		pinned := withCookie("affinity=" + sticky.CookieValue(key(1), "a"))
		release := make(chan struct{})
		for _, id := range []string{"a", "b"} {
			c.at(id).handle(func(w http.ResponseWriter, r *http.Request) { <-release; w.Write([]byte(id)) })
		}
		var held sync.WaitGroup
		hold := func(want string) {
			held.Go(func() {
				w := serve(p, request("GET", v4(1), pinned))
				if w.Body.String() != want {
					t.Errorf("%s served; want %s", w.Body, want)
				}
				if w.Header()["Set-Cookie"] != nil {
					t.Errorf("a node that is full for a moment lost its user: %v", w.Header())
				}
			})
			synctest.Wait()
		}
		hold("a")
		hold("a")
		hold("b")
		hold("b")
		w := serve(p, request("GET", v4(1), pinned))
		if w.Code != 503 || w.Header().Get("Retry-After") != "1" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("everybody is full: %d %v; want 503 with Retry-After", w.Code, w.Header())
		}
		close(release)
		held.Wait()
		if s := stateOf(t, p, "a"); s.InFlight != 0 || s.Overflows != 3 || s.Requests != 2 {
			t.Errorf("a: %+v; want 0 in flight, 3 overflows, 2 requests", s)
		}
		if s := p.Status(); s.Unserved != 1 || s.InFlight != 0 {
			t.Errorf("%d unserved, %d in flight; want 1, 0", s.Unserved, s.InFlight)
		}
	})
}

func TestNobodyUp(t *testing.T) {
	for _, strict := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			h := checked
			h.Strict = strict
			p := c.proxy(sticky.Options{Health: h}, "a", "b")
			wait(moment)
			c.at("a").setHealth(500) // the application itself is well
			c.at("b").set(refuses)
			wait(3 * time.Second)
			expectState(t, p, "a", "down", "all down")
			expectState(t, p, "b", "down", "all down")
			for range 10 {
				w := serve(p, request("POST", v4(1)))
				switch {
				case strict && (w.Code != 503 || w.Header().Get("Retry-After") == ""):
					t.Fatalf("strict: %d %v; want 503 with Retry-After", w.Code, w.Header())
				case !strict && w.Body.String() != "a":
					t.Fatalf("nobody is up: %d %s; want a, which answers", w.Code, w.Body)
				}
			}
			c.at("a").setHealth(503)
			wait(time.Second)
			if w := serve(p, request("POST", v4(1))); !strict && w.Body.String() != "a" {
				t.Errorf("a is leaving and alone: %d %s", w.Code, w.Body)
			}
			c.at("a").set(refuses)
			wait(2 * time.Second)
			if w := serve(p, request("GET", v4(1))); w.Code != 503 && w.Code != 502 {
				t.Errorf("nobody is there: %d", w.Code)
			}
		})
	}
}

func TestNoNodes(t *testing.T) {
	p := newProxy(t, nil, sticky.Options{})
	if w := serve(p, request("GET", v4(1))); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v; want 503 with Retry-After", w.Code, w.Header())
	}
}

// Without checks a node that was down is tried again after the window.
func TestUncheckedNodesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		h := unchecked
		h.SlowStart = -1
		p := c.proxy(sticky.Options{By: sticky.ByIP(), Health: h}, "a", "b")
		user := userOf(t, p, "a")
		c.at("a").set(refuses)
		serve(p, request("GET", user))
		c.at("a").set(up)
		wait(9 * time.Second)
		expectState(t, p, "a", "down", "within the window")
		wait(2 * time.Second)
		expectState(t, p, "a", "up", "after the window")
	})
}

// A change of address keeps the node's users and checks the new place.
func TestAddressChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "elsewhere")
		p := c.proxy(sticky.Options{By: sticky.ByIP(), Health: checked}, "a", "b")
		wait(moment)
		user := userOf(t, p, "a")
		c.at("a").set(refuses)
		moved := named("a", "b")
		moved[0].URL = parse(t, "http://elsewhere")
		if err := p.SetNodes(moved); err != nil {
			t.Fatal(err)
		}
		if w := serve(p, request("POST", user)); w.Body.String() != "elsewhere" {
			t.Errorf("%d %s; want elsewhere", w.Code, w.Body)
		}
		wait(5 * time.Second)
		expectState(t, p, "a", "up", "at the new place")
	})
}

// A user whose own node is out, and who meets a full one on the way, gets a new
// home; one whose own node was full keeps it.
func TestFullNodeOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		nodes := named("a", "b", "c")
		nodes[1].MaxInFlight = 1
		p := newProxy(t, nodes, sticky.Options{Dial: c.dial, Health: sticky.Health{Interval: -1}, Keys: [][]byte{key(1)}})
		release := make(chan struct{})
		c.at("b").handle(func(w http.ResponseWriter, r *http.Request) { <-release })
		var held sync.WaitGroup
		held.Go(func() { serve(p, request("GET", v4(1), withCookie("affinity="+sticky.CookieValue(key(1), "b")))) })
		synctest.Wait()
		c.at("a").set(refuses)
		for i := range 20 { // some of them come by b first
			w := serve(p, request("GET", v4(1), withCookie(fmt.Sprint("n=", i, "; affinity="+sticky.CookieValue(key(1), "a")))))
			if w.Body.String() != "c" || !strings.Contains(w.Header().Get("Set-Cookie"), sticky.CookieValue(key(1), "c")) {
				t.Errorf("%d %s %v; want c, and its cookie", w.Code, w.Body, w.Header())
			}
		}
		if stateOf(t, p, "b").Overflows == 0 {
			t.Error("nobody came by b")
		}
		close(release)
		held.Wait()
	})
}

// Without cookies, those whose own node is out count as failed over.
func TestFailoversByIP(t *testing.T) {
	var seen []sticky.Outcome
	p := newProxy(t, named("a", "b"), sticky.Options{
		By: sticky.ByIP(), Health: unchecked, Transport: sayNode,
		Observer: func(_ *http.Request, o sticky.Outcome) { seen = append(seen, o) },
	})
	user := userOf(t, p, "a")
	if err := p.Drain(t.Context(), "a", sticky.Move); err != nil {
		t.Fatal(err)
	}
	before := stateOf(t, p, "b").Failovers
	seen = nil
	serve(p, request("GET", user))
	if n := stateOf(t, p, "b").Failovers - before; n != 1 || !seen[0].Moved {
		t.Errorf("a user of a on b: %d failovers, %+v", n, seen)
	}
}
