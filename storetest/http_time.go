package storetest

import (
	"strings"
	"time"

	"github.com/distsession/session"
)

const time30 = 30 * time.Minute

// timePromises: sessions end by themselves.
var timePromises = []promise{
	{"an unused session ends with the idle timeout", idleEnds},
	{"a session in use lives on until its absolute end", absoluteEnds},
	{"the manager ends what its store would still return", managerChecksToo},
	{"signing in begins a new lifetime, Renew does not", lifetimes},
	{"a session that is remembered outlives the idle timeout, and its cookie the browser", remembered},
}

var serverTimePromises = []promise{
	{"a session is touched at most once in a tenth of the idle time", touchedSeldom},
}

func idleEnds(t *place) {
	if t.b.Advance == nil {
		t.idleEndsInRealTime()
		return
	}
	one, two := t.node(session.Options{IdleTimeout: time30}), t.node(session.Options{IdleTimeout: time30})
	b, writer := t.signedIn(one, "alice"), t.signedIn(one, "bob")
	t.pass(time30)
	for _, n := range []*node{one, two} {
		n.store.Reset()
		a := b.see(n, "/read")
		a.nobody(t, "after the idle timeout")
		if !a.IsNew || a.Replaced {
			t.Errorf("IsNew %t, Replaced %t; want a new session", a.IsNew, a.Replaced)
		}
		if writes := n.store.Calls() - n.loads(); writes != 0 {
			t.Errorf("%d writes for a session that has ended", writes)
		}
	}
	old := writer.token()
	writer.see(one, "/set?cart=pen")
	writer.see(two, "/read").shows(t, "a write after the idle timeout", "", "pen")
	if writer.token() == old {
		t.Error("the write went on under the old token")
	}
	t.live(one, "alice", 0)
}

func (t *place) idleEndsInRealTime() {
	n := t.node(session.Options{IdleTimeout: t.life()})
	b := t.signedIn(n, "alice")
	t.pass(t.life())
	b.see(n, "/read").nobody(t, "after the idle timeout")
	t.gone(n.store, b.token(), "after the idle timeout")
}

func absoluteEnds(t *place) {
	opts := session.Options{IdleTimeout: time30, Lifetime: 2 * time.Hour}
	n := t.node(opts)
	b := t.signedIn(n, "alice")
	for range 5 { // 100 minutes, never 30 without a visit
		t.advance(20 * time.Minute)
		b.see(n, "/read").shows(t, "in use", "alice", "book")
	}
	t.advance(15 * time.Minute)
	b.see(n, "/set?cart=pen").shows(t, "five minutes before the end", "alice", "pen")
	t.advance(6 * time.Minute)
	b.see(n, "/read").nobody(t, "past the absolute end")
	b.see(n, "/inc")
	if a := b.see(n, "/read"); a.User != "" || a.Cart != "" || a.Count != 1 {
		t.Errorf("a write past the absolute end: %s", a.body)
	}
}

func managerChecksToo(t *place) {
	for _, tt := range []struct {
		why   string
		opts  session.Options
		ahead time.Duration
	}{
		{"idle", session.Options{IdleTimeout: time30}, time30 + time.Minute},
		{"a shorter idle timeout than when it was saved", session.Options{IdleTimeout: 10 * time.Minute}, 11 * time.Minute},
		{"a shorter lifetime than when it was saved", session.Options{Lifetime: 20 * time.Minute}, 21 * time.Minute},
	} {
		saver := t.node(session.Options{IdleTimeout: time30})
		n := t.node(tt.opts)
		b := t.signedIn(saver, "alice")
		n.ahead.Store(int64(tt.ahead)) // the backend's clock stays
		a := b.see(n, "/read")
		a.nobody(t, tt.why)
		if !a.IsNew {
			t.Errorf("%s: the session is not new", tt.why)
		}
	}
}

func lifetimes(t *place) {
	n := t.node(session.Options{IdleTimeout: -1, Lifetime: time.Hour})
	renewed, signedIn := t.signedIn(n, "alice"), t.signedIn(n, "alice")
	t.advance(40 * time.Minute)
	renewed.see(n, "/renew")
	signedIn.see(n, "/signin?user=alice")
	t.advance(25 * time.Minute)
	renewed.see(n, "/read").nobody(t, "an hour after the sign-in, renewed meanwhile")
	signedIn.see(n, "/read").shows(t, "25 minutes after the second sign-in", "alice", "book")
}

func remembered(t *place) {
	n := t.node(session.Options{IdleTimeout: 10 * time.Minute, Lifetime: time.Hour, PersistLifetime: 3 * time.Hour})
	forgotten, kept := t.signedIn(n, "alice"), t.signedIn(n, "alice")
	if a := forgotten.see(n, "/renew"); !a.setsCookie() || outlives(a) {
		t.Errorf("a cookie that ends with the browser has Set-Cookie %q", a.header["Set-Cookie"])
	}
	if a := kept.see(n, "/remember"); !a.setsCookie() || !outlives(a) {
		t.Errorf("a cookie that is to be remembered has Set-Cookie %q", a.header["Set-Cookie"])
	}
	t.advance(90 * time.Minute)
	forgotten.see(n, "/read").nobody(t, "after the idle timeout and the lifetime")
	kept.see(n, "/read").shows(t, "remembered", "alice", "book")
	if a := kept.see(n, "/renew"); !a.setsCookie() || !outlives(a) {
		t.Errorf("after Renew Set-Cookie is %q; want it to outlive the browser", a.header["Set-Cookie"])
	}
	kept.see(n, "/read").shows(t, "remembered and renewed", "alice", "book")
	t.advance(91 * time.Minute)
	kept.see(n, "/read").nobody(t, "after the lifetime of what is remembered")
}

// outlives tells whether the cookie stays when the browser closes.
func outlives(a *answer) bool {
	line := strings.Join(a.header["Set-Cookie"], "\n")
	return strings.Contains(line, "Max-Age=") && strings.Contains(line, "Expires=")
}

func touchedSeldom(t *place) {
	n := t.node(session.Options{IdleTimeout: time30})
	ability[session.Toucher](t, n.store)
	b := t.signedIn(n, "alice")
	n.store.Reset()
	step := func(d time.Duration, want int) {
		t.Helper()
		t.advance(d)
		for range 5 {
			b.see(n, "/read")
		}
		if got := n.store.Calls(Touch); got != want {
			t.Errorf("%d touches; want %d", got, want)
		}
	}
	step(0, 0)
	step(time.Minute, 0)
	step(time30/10, 1)
	step(time.Minute, 1)
	step(time30/10, 2)
	if n.store.Calls(Save) != 0 {
		t.Errorf("readers saved %d times", n.store.Calls(Save))
	}
	if writes := n.store.Calls() - n.loads(); writes != 2 {
		t.Errorf("25 readers wrote %d times", writes)
	}
}
