package storetest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distsession/session"
)

// httpPromises is what RunHTTP tests.
var httpPromises = &suite{
	every: slices.Concat([]promise{
		{"a visitor who writes nothing gets no record and no cookie", visitorWritesNothing},
		{"an untouched handler costs nothing", untouchedCostsNothing},
		{"reading is one call of the store, changing two", roundTrips},
		{"a value comes back on every node", valueOnEveryNode},
		{"a token that a client invents is no session, costs no write and sets no cookie", inventedTokens},
		{"the session may be used by many goroutines of one request", manyGoroutinesOfOneRequest},
		{"a flash message is shown once", flashOnce},
		{"a bearer token travels in headers", bearerJourney},
		{"a session lives outside of HTTP too", outsideOfHTTP},
	}, signInPromises, commitPromises, failurePromises, timePromises, headerPromises),
	serverSide: slices.Concat([]promise{
		{"two requests that change different values at once: both survive", bothChangesSurvive},
		{"100 requests that Update one counter at once: 100", hundredUpdates},
		{"a request that only reads never writes the values back", readerWritesNothing},
		{"of 20 requests that Take one value exactly one gets it", takeOnce},
		{"a user reads their own writes on every node, whatever copies there are", ownWritesOverHTTP},
		{"a version that a client invents is no error and costs no more than a load", inventedVersions},
	}, serverSignInPromises, serverCommitPromises, serverFailurePromises, serverTimePromises, serverHeaderPromises),
	clientSide: clientHTTPPromises,
}

func visitorWritesNothing(t *place) {
	n := t.node(session.Options{})
	n.change("/look", func(s *session.Session, _ url.Values) {
		cart.Pop(s)
		theme.Delete(s)
		s.Renew()
		s.Persist(false)
		s.ID()
	})
	n.change("/change-of-mind", func(s *session.Session, _ url.Values) {
		cart.Set(s, "book")
		cart.Delete(s)
	})
	b := t.browser()
	for _, path := range []string{"/read", "/look", "/change-of-mind", "/signout"} {
		a := b.see(n, path)
		if a.setsCookie() || !a.IsNew {
			t.Errorf("%s: Set-Cookie %q, page %s", path, a.header["Set-Cookie"], a.body)
		}
	}
	if calls := n.store.Calls(); calls != 0 {
		t.Errorf("the store was called %d times; want 0", calls)
	}
}

func untouchedCostsNothing(t *place) {
	n := t.node(session.Options{})
	b := t.signedIn(n, "alice")
	t.advance(10 * time.Minute) // a touch would be due
	n.store.Reset()
	a := b.see(n, "/static")
	if calls := n.store.Calls(); calls != 0 {
		t.Errorf("the store was called %d times; want 0", calls)
	}
	for _, name := range []string{"Set-Cookie", "Vary", "Cache-Control"} {
		if v, has := a.header[name]; has {
			t.Errorf("%s is %q; want none", name, v)
		}
	}
}

func roundTrips(t *place) {
	n := t.node(session.Options{})
	b := t.signedIn(n, "alice")
	for _, tt := range []struct {
		path, why  string
		all, saves int
	}{
		{"/read", "a Load", 1, 0},
		{"/set?cart=pen", "a Load and a Save", 2, 1},
		{"/set?cart=pen", "it is there already", 1, 0},
		{"/set?cart=ink&theme=dark", "two values, one Save", 2, 1},
		{"/inc", "a Load and a Save", 2, 1},
		{"/static", "not looked at", 0, 0},
	} {
		n.store.Reset()
		b.see(n, tt.path)
		if all, saves := n.store.Calls(), n.store.Calls(Save); all != tt.all || saves != tt.saves {
			t.Errorf("%s: %d calls, %d of them Save; want %d and %d (%s)", tt.path, all, saves, tt.all, tt.saves, tt.why)
		}
	}
	n.store.Reset()
	t.browser().see(n, "/set?cart=first")
	if all := n.store.Calls(); all != 1 {
		t.Errorf("a visitor's first value: %d calls; want one Save", all)
	}
}

func valueOnEveryNode(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.browser()
	first := b.see(one, "/set?cart=book")
	if first.Cart != "book" {
		t.Errorf("the page that set the value shows %q", first.Cart)
	}
	for i := range 5 {
		b.see(two, fmt.Sprintf("/set?theme=t%d", i))
		a := b.see(one, "/read")
		if a.Cart != "book" || a.Theme != fmt.Sprintf("t%d", i) || a.ID != first.ID || a.IsNew {
			t.Fatalf("round %d: page %s", i, a.body)
		}
		if b.see(two, "/inc").Count != i+1 {
			t.Fatalf("round %d: the counter is wrong", i)
		}
	}
	t.browser().see(two, "/read").nobody(t, "another browser")
}

func inventedTokens(t *place) {
	n := t.node(session.Options{})
	b := t.signedIn(n, "alice")
	id := b.see(n, "/read").ID
	stranger := t.browser()
	n.store.Reset()
	for _, h := range hostileTokens(t, b.token(), id) {
		if !cookieValue(h.Token) {
			continue // net/http or the client refuses it
		}
		a, err := stranger.visit(t.Context(), n, "/read", "Cookie", cookieName+"="+h.Token)
		if err != nil {
			t.Errorf("%s: %v", h.Name, err)
			continue
		}
		a.nobody(t, h.Name+" ("+h.Why+")")
		if a.setsCookie() || !a.IsNew {
			t.Errorf("%s: Set-Cookie %q, IsNew %t", h.Name, a.header["Set-Cookie"], a.IsNew)
		}
		if strings.Contains(n.log.String(), h.Token) && len(h.Token) > 16 {
			t.Errorf("%s: the log shows the token", h.Name)
		}
	}
	if writes := n.store.Calls() - n.loads(); writes != 0 {
		t.Errorf("%d calls of the store were no Load", writes)
	}
	// A visitor who then writes gets a token of ours, not the one presented.
	planted := session.NewToken()
	a := stranger.see(n, "/set?cart=book", "Cookie", cookieName+"="+planted)
	if got := stranger.token(); got == "" || got == planted || a.ID == session.ID(planted) {
		t.Errorf("the new session has the token or the ID that the client presented")
	}
	t.gone(n.store, planted, "a token that a client invented and a handler wrote under")
}

func manyGoroutinesOfOneRequest(t *place) {
	n := t.node(session.Options{})
	n.change("/busy", func(s *session.Session, _ url.Values) {
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 10 {
					count.Update(s, func(n int) int { return n + 1 })
					cart.Set(s, fmt.Sprintf("%d-%d", g, i))
					theme.Get(s)
					s.ID()
					s.Err()
					s.Save(t.Context())
				}
			})
		}
		wg.Wait()
	})
	b := t.browser()
	b.see(n, "/busy")
	if a := b.see(n, "/read"); a.Count != 80 || a.Cart == "" {
		t.Errorf("after 80 updates the page is %s", a.body)
	}
}

func flashOnce(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	for _, n := range []*node{one, two} {
		n.handle("/flash", func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
			msg, ok := theme.Pop(s)
			fmt.Fprintf(w, "%s %t", msg, ok)
		})
	}
	b := t.signedIn(one, "alice")
	b.see(one, "/set?theme=saved")
	if a := b.see(two, "/flash"); a.body != "saved true" {
		t.Errorf("the message is %q; want it shown", a.body)
	}
	for _, n := range []*node{one, two} {
		if a := b.see(n, "/flash"); a.body != " false" {
			t.Errorf("the message is %q; it was shown already", a.body)
		}
	}
	b.see(one, "/read").shows(t, "the other values stay", "alice", "book")
}

func bearerJourney(t *place) {
	opts := session.Options{Transport: session.HeaderTransport{}}
	one, two := t.node(opts), t.node(opts)
	b := t.browser()
	token := ""
	ask := func(n *node, path string) *answer {
		t.Helper()
		var header []string
		if token != "" {
			header = []string{"Authorization", "Bearer " + token}
		}
		a := b.see(n, path, header...)
		if a.setsCookie() {
			t.Errorf("%s: Set-Cookie %q", path, a.header["Set-Cookie"])
		}
		if got := a.header.Get("Vary"); got != "Authorization" {
			t.Errorf("%s: Vary is %q; want Authorization", path, got)
		}
		if sent, has := a.header["Session-Token"]; has {
			token = sent[0]
			if got := a.header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("%s: a response with a token has Cache-Control %q", path, got)
			}
		}
		return a
	}
	ask(one, "/read").nobody(t, "without a token")
	if token != "" {
		t.Error("a visitor who wrote nothing got a token")
	}
	ask(one, "/set?cart=book")
	anonymous := token
	ask(one, "/signin?user=alice")
	if token == anonymous || token == "" {
		t.Error("signing in did not change the token")
	}
	ask(two, "/read").shows(t, "on another node", "alice", "book")
	last := token
	ask(two, "/signout")
	if token != "" {
		t.Error("after signing out the client still has a token")
	}
	token = last
	t.settle()
	ask(one, "/read").nobody(t, "with the token of a session that was ended")
}

func outsideOfHTTP(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	with := func(n *node, token string, f func(s *session.Session)) string {
		t.Helper()
		t.settle() // nothing tells what the caller has seen
		s, err := n.m.Session(t.Context(), token)
		if err != nil {
			t.Fatalf("Session: %v", err)
		}
		f(s)
		token, err = n.m.Commit(t.Context(), s)
		if err != nil {
			t.Fatalf("Commit: %v", err)
		}
		return token
	}
	if token := with(one, "", func(*session.Session) {}); token != "" {
		t.Error("a session that nobody wrote to has a token")
	}
	anonymous := with(one, "", func(s *session.Session) { cart.Set(s, "book") })
	token := with(two, anonymous, func(s *session.Session) { s.SetUser("alice") })
	if token == anonymous || token == "" {
		t.Fatal("SetUser did not change the token")
	}
	token = with(one, token, func(s *session.Session) { count.Update(s, func(n int) int { return n + 1 }) })
	token = with(two, token, func(s *session.Session) {
		if p := show(s); p.User != "alice" || p.Cart != "book" || p.Count != 1 || s.IsNew() {
			t.Errorf("the session is %+v", p)
		}
	})
	with(one, anonymous, func(s *session.Session) {
		if s.User() != "" || !s.Replaced() {
			t.Errorf("the old token opens user %q, Replaced %t", s.User(), s.Replaced())
		}
	})
	if after := with(one, token, func(s *session.Session) { s.Destroy() }); after != "" {
		t.Error("after Destroy the client still has a token")
	}
	with(two, token, func(s *session.Session) {
		if s.User() != "" || !s.IsNew() {
			t.Errorf("after Destroy the token opens user %q", s.User())
		}
	})
	// The same sessions over HTTP.
	token = with(one, "", func(s *session.Session) { s.SetUser("bob") })
	if a := t.browser().see(two, "/read", "Cookie", cookieName+"="+token); a.User != "bob" {
		t.Errorf("over HTTP the token opens user %q; want bob", a.User)
	}
}

func bothChangesSurvive(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.signedIn(one, "alice")
	gateOne, errsOne := one.held("/held", setValues)
	gateTwo, errsTwo := two.held("/held", setValues)
	first := b.copy().start(one, "/held?cart=pen")
	receive(t, "the first request's load", gateOne.Arrived())
	second := b.copy().start(two, "/held?theme=dark")
	receive(t, "the second request's load", gateTwo.Arrived())
	gateOne.Open()
	receive(t, "the first answer", first)
	gateTwo.Open()
	receive(t, "the second answer", second)
	if e1, e2 := <-errsOne, <-errsTwo; e1 != nil || e2 != nil {
		t.Errorf("Err: %v and %v", e1, e2)
	}
	t.settle() // the changes were another browser's
	for _, n := range []*node{one, two} {
		if a := b.see(n, "/read"); a.Cart != "pen" || a.Theme != "dark" || a.User != "alice" {
			t.Errorf("of two changes remains %s", a.body)
		}
	}
}

func hundredUpdates(t *place) {
	nodes := []*node{t.node(session.Options{}), t.node(session.Options{})}
	b := t.signedIn(nodes[0], "alice")
	requests := make([]func(), 100)
	var failed atomic.Int64
	for i := range requests {
		requests[i] = func() {
			a, err := b.visit(t.Context(), nodes[i%2], "/inc")
			if err != nil || a.status != http.StatusOK {
				failed.Add(1)
			}
		}
	}
	together(requests...)
	if failed.Load() > 0 {
		t.Errorf("%d of 100 requests failed:\n%s%s", failed.Load(), nodes[0].log, nodes[1].log)
	}
	t.settle() // of the versions it has seen the browser keeps the one that came last
	if a := b.see(nodes[1], "/read"); a.Count != 100 || a.Cart != "book" {
		t.Errorf("the counter is %d; want 100", a.Count)
	}
}

func readerWritesNothing(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.signedIn(one, "alice")
	gate, _ := one.held("/slow", func(*session.Session, url.Values) {})
	t.advance(10 * time.Minute) // its use is due to be noted
	slow := b.copy().start(one, "/slow")
	receive(t, "the reader's load", gate.Arrived())
	b.see(two, "/set?cart=pen&theme=dark")
	one.store.Reset()
	gate.Open()
	if a := receive(t, "the reader's answer", slow); a.setsCookie() {
		t.Errorf("a reader set a cookie: %q", a.header["Set-Cookie"])
	}
	if _, ok := session.As[session.Toucher](one.store); ok && one.store.Calls(Save) != 0 {
		t.Errorf("a reader saved %d times", one.store.Calls(Save))
	}
	if a := b.see(one, "/read"); a.Cart != "pen" || a.Theme != "dark" {
		t.Errorf("after a reader that was slower than a writer: %s", a.body)
	}
}

func ownWritesOverHTTP(t *place) {
	nodes := []*node{t.node(session.Options{}), t.node(session.Options{}), t.node(session.Options{})}
	b := t.browser()
	b.see(nodes[0], "/set?cart=book")
	step := 0
	everywhere := func(when, user string) {
		t.Helper()
		for i := range nodes {
			n := nodes[(step+i)%len(nodes)]
			if a := b.see(n, "/read"); a.User != user || a.Count != step {
				t.Fatalf("%s, after %d updates, node %d shows %s", when, step, (step+i)%len(nodes), a.body)
			}
		}
	}
	for _, path := range []string{"/signin?user=alice", "/renew", "/set?theme=dark", "/remember", "/signin?user=alice"} {
		for range 4 {
			step++
			user := b.see(nodes[step%len(nodes)], "/inc").User
			everywhere("anywhere", user)
		}
		b.see(nodes[step%len(nodes)], path)
		everywhere("after "+path, "alice")
	}
	b.see(nodes[1], "/signout")
	step = 0
	everywhere("after the sign-out", "")
}

func inventedVersions(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	if !one.versioned() {
		t.Skip("this store does not answer from copies, so the browser has no version to send")
	}
	b := t.signedIn(one, "alice")
	other := t.signedIn(one, "bob")
	id := b.see(two, "/read").ID
	forger := t.browser() // with no cookies of its own
	for _, tt := range []struct{ version, why string }{
		{id[:8] + ".9223372036854775807", "the largest"},
		{id[:8] + ".4611686018427387905", "Migrating's other range"},
		{id[:8] + ".1000", "not written yet"},
		{id[:8] + ".1", "an old one: a copy may have it"},
		{id[:8] + ".9223372036854775808", "too large"},
		{id[:8] + ".0", "before the first"},
		{id[:8] + ".-1", "negative"},
		{id[:8] + ".+1", "not as we write it"},
		{id[:8] + ".0001", "not as we write it"},
		{id[:8] + ".1.1", "not a number"},
		{id[:8] + ".", "no number"},
		{id[:8], "no number"},
		{id, "longer than any"},
		{"." + id[:8], "short tag"},
		{id[:8] + "." + strings.Repeat("9", 1000), "long"},
		{other.cookie(versionName), "another session's"},
		{"1", "no tag"},
		{"", "nothing"},
	} {
		for _, n := range []*node{one, two} {
			for range 2 {
				n.store.Reset()
				a := forger.see(n, "/read", "Cookie", cookieName+"="+b.token()+"; "+versionName+"="+tt.version)
				a.shows(t, tt.why, "alice", "book")
				if calls := n.store.Calls(); calls != 1 || len(a.header["Set-Cookie"]) != 0 {
					t.Errorf("%q (%s): %d calls of the store, Set-Cookie %q; want one load and none", tt.version, tt.why, calls, a.header["Set-Cookie"])
				}
			}
		}
	}
	// Nor is it in the way of the versions that follow.
	b.keep(versionName, id[:8]+".9223372036854775807")
	for i := range 3 {
		b.see(one, "/inc")
		if a := b.see(two, "/read"); a.Count != i+1 {
			t.Errorf("after %d updates: %s", i+1, a.body)
		}
	}
}

func takeOnce(t *place) {
	nodes := []*node{t.node(session.Options{}), t.node(session.Options{})}
	b := t.signedIn(nodes[0], "alice")
	for round := range 3 {
		b.see(nodes[0], "/set?theme=once")
		path := fmt.Sprintf("/take%d", round)
		gate := t.gate()
		for _, n := range nodes {
			n.handle(path, func(w http.ResponseWriter, r *http.Request, s *session.Session) {
				if gate.wait(r.Context()) != nil { // until all have loaded it
					return
				}
				v, ok, err := theme.Take(r.Context(), s)
				fmt.Fprintf(w, "%s %t %v", v, ok, err)
			})
		}
		answers := make([]<-chan *answer, 20)
		for i := range answers {
			answers[i] = b.start(nodes[i%2], path)
		}
		for range answers {
			receive(t, "a request's load", gate.Arrived())
		}
		gate.Open()
		got := 0
		for _, c := range answers {
			switch a := receive(t, "an answer", c); a.body {
			case "once true <nil>":
				got++
			case " false <nil>":
			default:
				t.Errorf("Take: %s", a.body)
			}
		}
		if got != 1 {
			t.Errorf("%d of %d requests got the value; want 1", got, len(answers))
		}
	}
	b.see(nodes[1], "/read").shows(t, "the other values stay", "alice", "book")
}
