package storetest

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distsession/session"
)

// signInPromises: what signing in, renewing and signing out do to a session.
var signInPromises = []promise{
	{"signing in changes token and ID and ends the old session on every node", signInChangesToken},
	{"signing in keeps the values of nobody and of the same user, and no other's", signInKeepsValues},
	{"a cookie that was planted before the sign-in is not signed in by it", plantedCookie},
	{"Renew changes token and ID and keeps the values, the user and Created", renewKeeps},
	{"signing out ends the session on every node", signOutEnds},
	{"a session that begins in the request that signed out is another", signOutThenWrite},
	{"a slow request that ends after the sign-out does not bring the session back", slowAfterSignOut},
	{"a request that comes with the old cookie after a sign-in sees Replaced, sets no cookie and changes nothing", oldCookieAfterSignIn},
	{"a request that is under way during a sign-in sets no cookie and changes nothing", underWayDuringSignIn},
	{"of two sign-ins on one old session at once one wins", twoSignIns},
	{"a sign-in on a session that was signed out meanwhile leaves nobody signed in", signInAfterSignOut},
	{"signing a user out everywhere works from any node", signOutEverywhere},
	{"signing in after that is live", signInAfterEverywhere},
}

var serverSignInPromises = []promise{
	{"a change that races a sign-in is in the new session or reported as dropped", changeRacesSignIn},
	{"of 20 sign-ins on one old session at once one wins", manySignIns},
	{"a user sees the devices and signs one out", devices},
	{"a user has at most MaxSessions sessions, and the oldest end", maxSessions},
}

func signInChangesToken(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.browser()
	before := b.see(one, "/set?cart=book")
	old := b.copy()
	after := b.see(one, "/signin?user=alice")
	if b.token() == old.token() || after.ID == before.ID || after.SignedIn.IsZero() {
		t.Fatalf("after the sign-in: the same token: %t, page %s", b.token() == old.token(), after.body)
	}
	if got := b.see(two, "/read"); got.ID != after.ID || got.User != "alice" {
		t.Errorf("the next page: %s; the sign-in showed %s", got.body, after.body)
	}
	for _, n := range []*node{one, two} {
		old.see(n, "/read").nobody(t, "with the old cookie")
	}
	if t.b.Advance != nil {
		t.advance(2 * time.Minute) // the marker is gone
		for _, n := range []*node{one, two} {
			a := old.see(n, "/read")
			a.nobody(t, "with the old cookie, later")
			if a.Replaced {
				t.Errorf("after two minutes the old cookie is still Replaced")
			}
		}
		b.see(two, "/read").shows(t, "the new session goes on", "alice", "book")
	}
}

func signInKeepsValues(t *place) {
	n := t.node(session.Options{})
	b := t.browser()
	b.see(n, "/set?cart=book")
	created := b.see(n, "/read").Created
	t.advance(time.Minute)
	b.see(n, "/signin?user=alice").shows(t, "from nobody", "alice", "book")
	a := b.see(n, "/read")
	a.shows(t, "from nobody", "alice", "book")
	if !a.Created.After(created) || a.Created != a.SignedIn {
		t.Errorf("Created is %v, SignedIn %v; want both to be the sign-in", a.Created, a.SignedIn)
	}
	b.see(n, "/signin?user=alice")
	b.see(n, "/read").shows(t, "the same user again", "alice", "book")
	b.see(n, "/signin?user=bob").shows(t, "another user", "bob", "")
	b.see(n, "/read").shows(t, "another user", "bob", "")
}

func plantedCookie(t *place) {
	n := t.node(session.Options{})
	attacker := t.browser()
	attacker.see(n, "/set?cart=trap")
	victim := attacker.copy()
	victim.see(n, "/signin?user=victim")
	for range 2 {
		attacker.see(n, "/read").nobody(t, "the planted cookie")
		attacker.see(n, "/set?theme=late")
	}
	if a := victim.see(n, "/read"); a.User != "victim" || a.Theme != "" {
		t.Errorf("the victim's session: %s", a.body)
	}
}

func renewKeeps(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.signedIn(one, "alice")
	before := b.see(one, "/read")
	old := b.copy()
	t.advance(time.Minute)
	a := b.see(two, "/renew")
	if b.token() == old.token() || a.ID == before.ID {
		t.Errorf("Renew left the token or the ID")
	}
	t.settle()
	for _, n := range []*node{one, two} {
		got := b.see(n, "/read")
		got.shows(t, "after Renew", "alice", "book")
		if !got.Created.Equal(before.Created) || !got.SignedIn.Equal(before.SignedIn) || got.ID != a.ID {
			t.Errorf("after Renew: %s; before: %s", got.body, before.body)
		}
		stale := old.see(n, "/read")
		stale.nobody(t, "with the old cookie")
		if !stale.Replaced || stale.setsCookie() {
			t.Errorf("with the old cookie: Replaced %t, Set-Cookie %q", stale.Replaced, stale.header["Set-Cookie"])
		}
	}
	t.live(one, "alice", 1)
}

func signOutEnds(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.signedIn(one, "alice")
	id := b.see(two, "/read").ID
	thief := b.copy()
	a := b.see(two, "/signout")
	a.nobody(t, "the page that signs out")
	if b.token() != "" || !a.setsCookie() {
		t.Errorf("the browser still holds the cookie; Set-Cookie %q", a.header["Set-Cookie"])
	}
	t.settle()
	for _, n := range []*node{one, two} {
		got := thief.see(n, "/read")
		got.nobody(t, "with a copy of the cookie")
		if got.Replaced {
			t.Error("a session that was signed out is not Replaced")
		}
	}
	if a := thief.see(one, "/set?theme=mine"); a.User != "" || a.ID == id {
		t.Errorf("a write with a copy of the cookie went to %s", a.body)
	}
	t.live(one, "alice", 0)
}

func signOutThenWrite(t *place) {
	n := t.node(session.Options{})
	n.change("/bye", func(s *session.Session, _ url.Values) {
		s.Destroy()
		theme.Set(s, "goodbye") // a flash message for the next page
	})
	b := t.signedIn(n, "alice")
	before := b.see(n, "/read")
	old := b.copy()
	b.see(n, "/bye")
	a := b.see(n, "/read")
	if a.Theme != "goodbye" || a.User != "" || a.Cart != "" || a.ID == before.ID || b.token() == old.token() {
		t.Errorf("the session that began after the sign-out: %s", a.body)
	}
	old.see(n, "/read").nobody(t, "the old cookie")
}

func slowAfterSignOut(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	for i, change := range []struct {
		what string
		do   func(s *session.Session, q url.Values)
		err  error
	}{
		{"sets a value", setValues, session.ErrNotFound},
		{"updates a value", func(s *session.Session, _ url.Values) { count.Update(s, func(n int) int { return n + 1 }) }, session.ErrNotFound},
		{"renews", func(s *session.Session, _ url.Values) { s.Renew() }, session.ErrNotFound},
		{"only reads", func(*session.Session, url.Values) {}, nil},
	} {
		b := t.signedIn(one, "alice")
		path := fmt.Sprintf("/slow%d", i)
		gate, errs := one.held(path, change.do)
		late := b.copy()
		slow := late.start(one, path+"?cart=late")
		receive(t, "the slow request's load", gate.Arrived())
		thief := b.copy()
		b.see(two, "/signout")
		gate.Open()
		a := receive(t, "the slow answer", slow)
		if err := receive(t, "the end of the slow request", errs); a.status != http.StatusOK || !errors.Is(err, change.err) {
			t.Errorf("a slow request that %s: status %d, Err %v; want 200, %v", change.what, a.status, err, change.err)
		}
		if a.setsCookie() {
			t.Errorf("a slow request that %s set a cookie: %q", change.what, a.header["Set-Cookie"])
		}
		t.settle()
		for _, n := range []*node{one, two} {
			thief.see(n, "/read").nobody(t, "after a slow request that "+change.what)
			late.see(n, "/read").nobody(t, "in the browser of a slow request that "+change.what)
		}
		t.live(one, "alice", 0)
	}
}

func oldCookieAfterSignIn(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.browser()
	b.see(one, "/set?cart=book")
	old := b.copy()
	b.see(one, "/signin?user=alice")
	for _, path := range []string{"/read", "/set?cart=late", "/inc", "/renew", "/remember"} {
		a := old.see(two, path)
		if !a.Replaced || a.User != "" || a.setsCookie() {
			t.Errorf("%s with the old cookie: Replaced %t, user %q, Set-Cookie %q", path, a.Replaced, a.User, a.header["Set-Cookie"])
		}
	}
	a := b.see(two, "/read")
	a.shows(t, "the new session", "alice", "book")
	if a.Count != 0 {
		t.Errorf("a request with the old cookie changed the new session: %s", a.body)
	}
	// Its own sign-in is another thing: somebody just proved who they are.
	old.see(two, "/signin?user=carol")
	old.see(one, "/read").shows(t, "a sign-in of its own", "carol", "")
	b.see(one, "/read").shows(t, "the other session", "alice", "book")
}

func underWayDuringSignIn(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	for user, path := range map[string]string{"alice": "/signin?user=alice", "bob": "/renew"} {
		slowPath := "/slow-" + user
		gate, errs := one.held(slowPath, setValues)
		b := t.browser()
		b.see(one, "/set?cart=book")
		if path == "/renew" {
			b.see(one, "/signin?user="+user)
		}
		tab := b.copy()
		slow := tab.start(one, slowPath+"?theme=late")
		receive(t, "the slow request's load", gate.Arrived())
		b.see(two, path)
		gate.Open()
		a := receive(t, "the slow answer", slow)
		if err := receive(t, "the end of the slow request", errs); a.status != http.StatusOK || !errors.Is(err, session.ErrNotFound) {
			t.Errorf("during %s: status %d, Err %v; want 200, ErrNotFound", path, a.status, err)
		}
		if a.setsCookie() {
			t.Errorf("during %s the slow request set a cookie: %q", path, a.header["Set-Cookie"])
		}
		got := b.see(one, "/read")
		got.shows(t, "after "+path, user, "book")
		if got.Theme != "" {
			t.Errorf("during %s the slow request changed the new session: %s", path, got.body)
		}
		tab.see(two, "/read").nobody(t, "the old cookie after "+path)
	}
}

func twoSignIns(t *place) {
	nodes := []*node{t.node(session.Options{}), t.node(session.Options{})}
	signIn := func(s *session.Session, q url.Values) { s.SetUser(q.Get("user")) }
	gates, errs := make([]*Gate, 2), make([]<-chan error, 2)
	b := t.browser()
	b.see(nodes[0], "/set?cart=book")
	browsers := []*browser{b.copy(), b.copy()}
	answers := make([]<-chan *answer, 2)
	for i, n := range nodes {
		gates[i], errs[i] = n.held("/double", signIn)
		answers[i] = browsers[i].start(n, "/double?user=alice")
		receive(t, "a sign-in's load", gates[i].Arrived())
	}
	together(gates[0].Open, gates[1].Open)
	won := 0
	for i := range nodes {
		a, err := receive(t, "an answer", answers[i]), receive(t, "the end of a sign-in", errs[i])
		switch {
		case err == nil && a.setsCookie():
			won++
			browsers[i].see(nodes[1-i], "/read").shows(t, "the one that won", "alice", "book")
		case !errors.Is(err, session.ErrNotFound) || a.setsCookie():
			t.Errorf("the sign-in that lost: Err %v, Set-Cookie %q", err, a.header["Set-Cookie"])
		default:
			browsers[i].see(nodes[1-i], "/read").nobody(t, "the one that lost")
		}
	}
	if won != 1 {
		t.Errorf("%d of two sign-ins won; want 1", won)
	}
	t.live(nodes[0], "alice", 1)
}

func signInAfterSignOut(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.signedIn(one, "alice")
	gate, errs := one.held("/again", func(s *session.Session, _ url.Values) { s.SetUser("alice") })
	tab := b.copy()
	slow := tab.start(one, "/again")
	receive(t, "the sign-in's load", gate.Arrived())
	b.see(two, "/signout")
	gate.Open()
	a := receive(t, "the sign-in's answer", slow)
	if err := receive(t, "the end of the sign-in", errs); !errors.Is(err, session.ErrNotFound) || a.setsCookie() {
		t.Errorf("a sign-in on a session that was ended: Err %v, Set-Cookie %q; want ErrNotFound and none", err, a.header["Set-Cookie"])
	}
	tab.see(two, "/read").nobody(t, "after both")
	t.live(one, "alice", 0)
}

// endAll ends the sessions of alice as an application does.
func (t *place) endAll(n *node, keep string) {
	t.Helper()
	if _, err := session.DeleteUser(t.Context(), n.store, "alice", keep); err != nil {
		t.supported(err)
		t.Fatalf("DeleteUser: %v", err)
	}
	t.settle()
}

func signOutEverywhere(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	ability[session.UserDeleter](t, one.store)
	phone, laptop, bob := t.signedIn(one, "alice"), t.signedIn(two, "alice"), t.signedIn(two, "bob")
	this := laptop.see(one, "/read").ID
	t.endAll(two, this)
	phone.see(one, "/read").nobody(t, "the other device")
	laptop.see(one, "/read").shows(t, "the device that asked", "alice", "book")
	laptop.see(one, "/set?cart=pen")
	t.endAll(one, "")
	for _, n := range []*node{one, two} {
		phone.see(n, "/read").nobody(t, "signed out everywhere")
		laptop.see(n, "/read").nobody(t, "signed out everywhere")
		bob.see(n, "/read").shows(t, "another user", "bob", "book")
	}
	t.live(one, "alice", 0)
}

func signInAfterEverywhere(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	ability[session.UserDeleter](t, one.store)
	b := t.browser()
	for range 3 {
		b.see(one, "/signin?user=alice")
		t.endAll(two, "")
		b.see(one, "/read").nobody(t, "after all were ended")
		b.see(one, "/signin?user=alice")
		for _, n := range []*node{one, two} {
			b.see(n, "/read").shows(t, "after a new sign-in", "alice", "")
		}
	}
}

func changeRacesSignIn(t *place) {
	nodes := []*node{t.node(session.Options{}), t.node(session.Options{})}
	for _, n := range nodes {
		n.handle("/count", func(w http.ResponseWriter, r *http.Request, s *session.Session) {
			if s.Replaced() {
				fmt.Fprint(w, "too late")
				return
			}
			count.Update(s, func(n int) int { return n + 1 })
			fmt.Fprint(w, s.Save(r.Context()))
		})
	}
	for round := range t.rounds() / 4 {
		b := t.browser()
		b.see(nodes[0], "/set?cart=book")
		tabs := []<-chan *answer{}
		for i := range 6 {
			tabs = append(tabs, b.copy().start(nodes[i%2], "/count"))
		}
		b.see(nodes[round%2], "/signin?user=alice")
		kept := 0
		for _, c := range tabs {
			switch a := receive(t, "an answer", c); {
			case a.body == "<nil>":
				kept++
			case a.body != "too late" && !strings.Contains(a.body, session.ErrNotFound.Error()):
				t.Fatalf("a change during a sign-in: %s", a.body)
			}
		}
		if a := b.see(nodes[0], "/read"); a.Count != kept || a.User != "alice" || a.Cart != "book" {
			t.Fatalf("round %d: %d changes were acknowledged; the new session is %s", round, kept, a.body)
		}
	}
}

func manySignIns(t *place) {
	nodes := []*node{t.node(session.Options{}), t.node(session.Options{})}
	b := t.browser()
	b.see(nodes[0], "/set?cart=book")
	gate := t.gate()
	for _, n := range nodes {
		n.handle("/storm", func(w http.ResponseWriter, r *http.Request, s *session.Session) {
			if gate.wait(r.Context()) != nil {
				return
			}
			s.SetUser("alice")
			writePage(w, show(s))
		})
	}
	answers := make([]<-chan *answer, 20)
	for i := range answers {
		answers[i] = b.copy().start(nodes[i%2], "/storm")
	}
	for range answers {
		receive(t, "a sign-in's load", gate.Arrived())
	}
	gate.Open()
	won := 0
	for _, c := range answers {
		a := receive(t, "an answer", c)
		if a.status != http.StatusOK {
			t.Errorf("status %d, body %q", a.status, a.body)
		}
		if a.setsCookie() {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d of %d sign-ins won; want 1", won, len(answers))
	}
	t.live(nodes[0], "alice", 1)
}

func devices(t *place) {
	opts := session.Options{Device: func(r *http.Request) string { return r.Header.Get("Device") }}
	one, two := t.node(opts), t.node(opts)
	ability[session.Lister](t, one.store)
	phone, laptop := t.browser(), t.browser()
	phone.see(one, "/signin?user=alice", "Device", "phone")
	laptop.see(two, "/signin?user=alice", "Device", "laptop")
	laptop.see(two, "/renew", "Device", "something else")
	seen := map[string]string{}
	for info, err := range session.List(t.Context(), two.store, "alice") {
		t.supported(err)
		if err != nil || info.User != "alice" || info.SignedIn.IsZero() || info.Seen.IsZero() || !info.Expires.After(t.now()) {
			t.Fatalf("List yields %+v, %v", info, err)
		}
		seen[info.Device] = info.ID
	}
	if len(seen) != 2 || seen["phone"] != phone.see(one, "/read").ID || seen["laptop"] != laptop.see(one, "/read").ID {
		t.Fatalf("the devices are %v", seen)
	}
	if err := two.store.Delete(t.Context(), seen["phone"]); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	t.settle()
	phone.see(one, "/read").nobody(t, "the device that was signed out")
	laptop.see(one, "/read").shows(t, "the other device", "alice", "")
}

func maxSessions(t *place) {
	opts := session.Options{MaxSessions: 2}
	probe := t.open()
	ability[session.Lister](t, probe)
	one, two := t.node(opts), t.node(opts)
	var browsers []*browser
	for i := range 4 {
		b := t.browser()
		b.see([]*node{one, two}[i%2], "/signin?user=alice")
		browsers = append(browsers, b)
		t.advance(time.Minute) // so that they differ in age
	}
	other := t.browser()
	other.see(one, "/signin?user=bob")
	t.settle()
	for i, want := range []string{"", "", "alice", "alice"} {
		for _, n := range []*node{one, two} {
			if a := browsers[i].see(n, "/read"); a.User != want {
				t.Errorf("sign-in %d of 4: user %q; want %q", i+1, a.User, want)
			}
		}
	}
	t.live(two, "alice", 2)
	t.live(two, "bob", 1)
}
