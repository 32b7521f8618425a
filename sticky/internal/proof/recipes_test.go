package proof

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestRecipes runs the configurations of docs/balancers.md.
func TestRecipes(t *testing.T) {
	for _, r := range []struct {
		name  string
		start func(t *testing.T, f *fleet) front
	}{
		{"nginx-cookie", frontNginx("nginx-cookie")},
		{"nginx-ip", frontNginx("nginx-ip")},
		{"haproxy", newHAProxy},
		{"caddy", newCaddy},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, true, maxStale)
			b := r.start(t, f)
			users := newCrowd(t, b, 60)

			// Affinity.
			home := users.homes(t)
			for _, m := range f.nodes {
				if len(users.at(m)) == 0 {
					t.Errorf("%s has none of %d users", m.config.Name, len(users.all))
				}
			}
			for range 3 {
				if again := users.homes(t); !slices.Equal(home, again) {
					t.Fatalf("users moved, and no node had died: %v, %v", home, again)
				}
			}

			// Failover: those of the dead node go on elsewhere, the others stay.
			victim := f.nodes[0]
			moved := users.at(victim)
			victim.Kill()
			away := users.homes(t) // with GET: a POST may meet a connection whose end is not noticed yet
			users.add(t)
			for i, now := range away {
				switch {
				case home[i] != victim.config.Name && r.name != "nginx-ip" && now != home[i]:
					t.Errorf("a user moved from %s to %s, and %s had died", home[i], now, victim.config.Name)
				case now == victim.config.Name:
					t.Error("the dead node answered")
				}
			}
			for _, v := range moved {
				v.check(t)
			}

			// Back.
			victim.restart(t)
			users.add(t)
			users.check(t)

			// Drain: under load, no request fails.
			other := f.nodes[1]
			users.during(t, func() {
				b.leave(t, other)
				other.Stop(t, time.Minute)
			})
			if len(users.at(other)) != 0 {
				t.Errorf("users are at %s, which has left", other.config.Name)
			}
			users.check(t)
			other.restart(t)
			b.back(t, other)
			users.add(t)
			users.check(t)

			// What has reached a node is not sent again, if it is a POST.
			for i, v := range users.all[:2] {
				if res, err := v.do(http.MethodPost, fmt.Sprintf("%s/hangup?id=hangup-%d", b.url(), i), nil); err == nil && res.status < 500 {
					t.Errorf("a POST that no node answered: %d", res.status)
				}
			}
			_, ran := f.logged(t)
			for i := range 2 {
				if n := len(ran[fmt.Sprintf("hangup-%d", i)]); n != 1 {
					t.Errorf("a POST that no node answered ran %d times", n)
				}
			}
			users.check(t)
		})
	}
}

// crowd is users who each wait for one answer before they ask again.
type crowd struct {
	url string
	all []*guest
}

type guest struct {
	*visitor
	url   string
	added []int
	node  string
}

func newCrowd(t *testing.T, b front, n int) *crowd {
	t.Helper()
	c := &crowd{url: b.url()}
	for i := range n {
		v := &guest{visitor: newVisitor(i), url: b.url()}
		v.must(t, http.MethodPost, fmt.Sprintf("/in?user=guest%d", i))
		c.all = append(c.all, v)
	}
	return c
}

func (v *guest) must(t *testing.T, method, path string) *response {
	t.Helper()
	res, err := v.do(method, v.url+path, nil)
	if err != nil || res.status != http.StatusOK {
		t.Fatalf("%s %s: %+v, %v", method, path, res, err)
	}
	v.node = res.node
	return res
}

// check reads what the user has added.
func (v *guest) check(t *testing.T) {
	t.Helper()
	if res := v.must(t, http.MethodGet, "/"); !slices.Equal(res.numbers.A, v.added) {
		t.Errorf("a user has added %v and sees %v", v.added, res.numbers.A)
	}
}

func (c *crowd) check(t *testing.T) {
	t.Helper()
	for _, v := range c.all {
		v.check(t)
	}
}

func (c *crowd) add(t *testing.T) {
	t.Helper()
	var wg sync.WaitGroup
	for _, v := range c.all {
		wg.Go(func() {
			n := len(v.added) + 1
			res, err := v.do(http.MethodPost, fmt.Sprintf("%s/add?device=a&n=%d&id=%s", v.url, n, rand.Text()), nil)
			if err != nil || res.status != http.StatusOK {
				t.Errorf("add: %+v, %v", res, err)
				return
			}
			v.added = append(v.added, n)
		})
	}
	wg.Wait()
}

// homes returns the node of each user.
func (c *crowd) homes(t *testing.T) []string {
	t.Helper()
	var at []string
	for _, v := range c.all {
		at = append(at, v.must(t, http.MethodGet, "/").node)
	}
	return at
}

func (c *crowd) at(m *member) []*guest {
	var at []*guest
	for _, v := range c.all {
		if v.node == m.config.Name {
			at = append(at, v)
		}
	}
	return at
}

// during lets the users add, again and again, until f returns.
func (c *crowd) during(t *testing.T, f func()) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				c.add(t)
			}
		}
	})
	f()
	close(stop)
	wg.Wait()
	c.check(t)
}
