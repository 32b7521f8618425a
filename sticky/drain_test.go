package sticky_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/sticky"
)

func TestDrainMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		p := c.proxy(sticky.Options{Health: checked, Keys: [][]byte{key(1)}}, "a", "b")
		wait(moment)
		pinned := withCookie("affinity=" + sticky.CookieValue(key(1), "a"))
		release := make(chan struct{})
		c.at("a").handle(func(w http.ResponseWriter, r *http.Request) { <-release; w.Write([]byte("a")) })
		var work sync.WaitGroup
		work.Go(func() {
			if w := serve(p, request("GET", v4(1), pinned)); w.Body.String() != "a" {
				t.Errorf("the request in flight: %s", w.Body)
			}
		})
		synctest.Wait()

		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Drain(short, "a", sticky.Move); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 requests in flight") {
			t.Errorf("%v; want that one is in flight", err)
		}
		expectState(t, p, "a", "draining", "after a Drain that ran out of time")

		drained := make(chan error, 1)
		go func() { drained <- p.Drain(t.Context(), "a", sticky.Move) }()
		synctest.Wait()
		w := serve(p, request("GET", v4(1), pinned))
		if w.Body.String() != "b" || !strings.Contains(w.Header().Get("Set-Cookie"), sticky.CookieValue(key(1), "b")) {
			t.Errorf("a user of the drained node: %s, %v; want b, and its cookie", w.Body, w.Header())
		}
		select {
		case err := <-drained:
			t.Errorf("Drain returned with a request in flight: %v", err)
		default:
		}
		close(release)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		work.Wait()

		// Nothing comes any more, not even without any other node.
		c.at("b").set(refuses)
		wait(3 * time.Second)
		if w := serve(p, request("GET", v4(1), pinned)); w.Code != 503 && w.Code != 502 {
			t.Errorf("a drained node was asked: %d %s", w.Code, w.Body)
		}
		if err := p.Resume("a"); err != nil {
			t.Fatal(err)
		}
		if w := serve(p, request("GET", v4(1), pinned)); w.Body.String() != "a" {
			t.Errorf("after Resume: %s", w.Body)
		}
	})
}

func TestDrainKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		p := c.proxy(sticky.Options{Health: checked, Keys: [][]byte{key(1)}}, "a", "b")
		wait(moment)
		pinned := withCookie("affinity=" + sticky.CookieValue(key(1), "a"))
		drained := make(chan error, 1)
		go func() { drained <- p.Drain(t.Context(), "a", sticky.Keep(time.Minute)) }()
		synctest.Wait()
		expectState(t, p, "a", "keeping", "at first")
		if s := stateOf(t, p, "a"); !s.Until.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("until %v; want in a minute", s.Until)
		}
		for range 30 {
			if w := serve(p, request("GET", v4(1))); w.Body.String() != "b" {
				t.Fatalf("a new user went to %s", w.Body)
			}
			if w := serve(p, request("GET", v4(1), pinned)); w.Body.String() != "a" || w.Header()["Set-Cookie"] != nil {
				t.Fatalf("a user of a: %s %v", w.Body, w.Header())
			}
		}
		wait(59 * time.Second)
		select {
		case err := <-drained:
			t.Errorf("Drain returned before the deadline: %v", err)
		default:
		}
		wait(2 * time.Second)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		expectState(t, p, "a", "draining", "after the deadline")
		if w := serve(p, request("GET", v4(1), pinned)); w.Body.String() != "b" {
			t.Errorf("after the deadline: %s", w.Body)
		}
	})
}

// Keep after Move takes the node's users back: they are served, their upgraded
// connections stay, and Drain waits.
func TestDrainKeepAfterMove(t *testing.T) {
	p := newProxy(t, []sticky.Node{real(t, "a", upgrades), real(t, "b", upgrades)}, sticky.Options{Health: unchecked, CloseOver: -1, Keys: [][]byte{key(1)}})
	s := front(t, p)
	pinned := "Cookie: affinity=" + sticky.CookieValue(key(1), "a") + "\r\n"
	if err := p.Drain(t.Context(), "a", sticky.Move); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Drain(ended, "a", sticky.Keep(time.Hour)); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stay") {
		t.Errorf("%v; want that its users stay", err)
	}
	expectState(t, p, "a", "keeping", "after Move")
	c, r, res := dialUpgrade(t, s.Listener.Addr().String(), pinned)
	if res.StatusCode != 101 || res.Header["Set-Cookie"] != nil {
		t.Errorf("a user of a: %v; want a", res)
	}
	expectEcho(t, c, r, "once")
	expectEcho(t, c, r, "twice")

	drained := make(chan error, 1)
	go func() { drained <- p.Drain(t.Context(), "a", sticky.Move) }()
	expectClosed(t, r)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// Nobody counts Keep's time after Shutdown, so nobody waits for its end.
func TestShutdownEndsTheWaitForKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, named("a", "b"), sticky.Options{Health: unchecked, Transport: sayNode})
		drained := make(chan error, 1)
		go func() { drained <- p.Drain(context.Background(), "a", sticky.Keep(time.Hour)) }()
		synctest.Wait()
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, when := range []string{"waited before", "came after"} {
			select {
			case err := <-drained:
				if err == nil || !strings.Contains(err.Error(), "shutting down") {
					t.Errorf("a Drain that %s: %v; want that the proxy is shutting down", when, err)
				}
			default:
				t.Fatalf("a Drain that %s still waits", when)
			}
			drained <- p.Drain(context.Background(), "b", sticky.Keep(time.Hour))
		}
		if err := p.Drain(context.Background(), "a", sticky.Move); err != nil {
			t.Errorf("Move after Shutdown: %v", err)
		}
	})
}

func TestDrainIsResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		p := c.proxy(sticky.Options{Health: checked}, "a", "b")
		wait(moment)
		drained := make(chan error, 1)
		go func() { drained <- p.Drain(t.Context(), "a", sticky.Keep(time.Minute)) }()
		synctest.Wait()
		if err := p.Resume("a"); err != nil {
			t.Fatal(err)
		}
		if err := <-drained; err == nil || !strings.Contains(err.Error(), "resumed") {
			t.Errorf("%v; want that it was resumed", err)
		}
		wait(2 * time.Minute)
		expectState(t, p, "a", "up", "past the old deadline")
	})
}

func TestUnknownNode(t *testing.T) {
	p := newProxy(t, named("a"), sticky.Options{Health: unchecked})
	for what, err := range map[string]error{
		"Drain":  p.Drain(t.Context(), "z", sticky.Move),
		"Resume": p.Resume("z"),
		"Remove": p.Remove("z"),
	} {
		if !errors.Is(err, sticky.ErrUnknownNode) || !strings.Contains(err.Error(), `"z"`) {
			t.Errorf("%s: %v; want ErrUnknownNode", what, err)
		}
	}
}

// However requests and drains race, nothing is on the node once Drain has
// returned.
func TestDrainRaces(t *testing.T) {
	var mu sync.Mutex
	drained := false
	p := newProxy(t, named("a", "b"), sticky.Options{
		By: sticky.ByIP(), Health: sticky.Health{Interval: -1, SlowStart: -1},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Host == "a" && drained {
				t.Error("a request after Drain had returned")
			}
			return response(200, r.URL.Host), nil
		}),
	})
	stop := make(chan struct{})
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for n := i; ; n += 4 {
				select {
				case <-stop:
					return
				default:
					serve(p, request("GET", v4(n%100)))
				}
			}
		})
	}
	for range 200 {
		if err := p.Drain(t.Context(), "a", sticky.Move); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		drained = true
		mu.Unlock()
		for range 10 {
			serve(p, request("GET", v4(1)))
		}
		mu.Lock()
		drained = false
		mu.Unlock()
		if err := p.Resume("a"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	work.Wait()
	if s := p.Status(); s.Unserved > 0 || s.InFlight > 0 {
		t.Errorf("%d unserved, %d in flight", s.Unserved, s.InFlight)
	}
}
