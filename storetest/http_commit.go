package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"

	"github.com/distsession/session"
)

// commitPromises: when the changes are saved.
var commitPromises = []promise{
	{"the session is committed before the header is sent", committedBeforeHeader},
	{"an informational response commits nothing", informational},
	{"a change that needs a new token after the response began is ErrCommitted", changeTooLate},
	{"Destroy after the response began ends the session", destroyTooLate},
	{"Save commits at once", saveCommitsAtOnce},
	{"a panic commits nothing", panicCommitsNothing},
	{"a value that is too large is refused, and nothing is lost", tooLarge},
}

var serverCommitPromises = []promise{
	{"a value set after the response began is saved at the end", setAfterBegun},
	{"a hijacked connection has its changes saved first", hijacked},
	{"a client that hangs up does not lose the write", clientHangsUp},
}

func committedBeforeHeader(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	for i, tt := range []struct {
		how   string
		begin func(w http.ResponseWriter) error
	}{
		{"the handler returns", func(http.ResponseWriter) error { return nil }},
		{"Write", func(w http.ResponseWriter) error { _, err := w.Write([]byte("hello")); return err }},
		{"Write of nothing", func(w http.ResponseWriter) error { _, err := w.Write(nil); return err }},
		{"io.WriteString", func(w http.ResponseWriter) error { _, err := io.WriteString(w, "hello"); return err }},
		{"WriteHeader", func(w http.ResponseWriter) error { w.WriteHeader(http.StatusAccepted); return nil }},
		{"WriteHeader of a redirect", func(w http.ResponseWriter) error { w.WriteHeader(http.StatusSeeOther); return nil }},
		{"ReadFrom", func(w http.ResponseWriter) error {
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("hello"))
			return err
		}},
		{"Flush", func(w http.ResponseWriter) error { w.(http.Flusher).Flush(); return nil }},
		{"ResponseController.Flush", func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }},
		{"an unwrapped Flush", func(w http.ResponseWriter) error {
			inner := w.(interface{ Unwrap() http.ResponseWriter }).Unwrap()
			return http.NewResponseController(inner).Flush()
		}},
	} {
		path := fmt.Sprintf("/begin%d", i)
		saves := make(chan int, 1)
		one.handle(path, func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
			cart.Set(s, tt.how)
			err := tt.begin(w)
			saves <- one.store.Calls(Save)
			if err != nil {
				t.Errorf("%s: %v", tt.how, err)
			}
		})
		b := t.browser()
		one.store.Reset()
		a := b.get(one, path)
		if n := receive(t, "the handler", saves); n != 1 && i > 0 {
			t.Errorf("%s: %d saves when the response had begun; want 1", tt.how, n)
		}
		if !a.setsCookie() || b.token() == "" {
			t.Errorf("%s: Set-Cookie %q", tt.how, a.header["Set-Cookie"])
		}
		if got := b.see(two, "/read"); got.Cart != tt.how {
			t.Errorf("%s: the next page shows %q", tt.how, got.Cart)
		}
	}
}

func informational(t *place) {
	n := t.node(session.Options{})
	n.handle("/hints", func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		if n.store.Calls() != 0 {
			t.Error("103 made the session commit")
		}
		cart.Set(s, "book")
		s.SetUser("alice")
		w.WriteHeader(http.StatusOK)
	})
	b := t.browser()
	early := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			early++
			if len(h["Set-Cookie"]) > 0 {
				t.Errorf("%d carries Set-Cookie", code)
			}
			return nil
		},
	})
	a, err := b.visit(ctx, n, "/hints")
	if err != nil || a.status != http.StatusOK || early != 1 || !a.setsCookie() {
		t.Fatalf("%v, %+v, %d early responses", err, a, early)
	}
	b.see(n, "/read").shows(t, "after early hints", "alice", "book")
}

func changeTooLate(t *place) {
	n := t.node(session.Options{})
	late := func(path string, change func(s *session.Session)) <-chan error {
		errs := make(chan error, 1)
		n.handle(path, func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
			io.WriteString(w, "begun")
			change(s)
			errs <- s.Err()
		})
		return errs
	}
	errs := late("/late-set", func(s *session.Session) { cart.Set(s, "book") })
	b := t.browser()
	a := b.see(n, "/late-set")
	t.wantErr("Err after a visitor's first value came too late", receive(t, "the handler", errs), session.ErrCommitted)
	if a.setsCookie() || n.store.Calls(Save) != 0 {
		t.Errorf("a session was saved that no client can have")
	}
	b = t.signedIn(n, "alice")
	for path, change := range map[string]func(s *session.Session){
		"/late-signin": func(s *session.Session) { s.SetUser("bob") },
		"/late-renew":  func(s *session.Session) { s.Renew() },
	} {
		errs = late(path, change)
		a = b.see(n, path)
		t.wantErr("Err after "+path, receive(t, "the handler", errs), session.ErrCommitted)
		if a.setsCookie() || a.body != "begun" {
			t.Errorf("%s: Set-Cookie %q, body %q", path, a.header["Set-Cookie"], a.body)
		}
		b.see(n, "/read").shows(t, "after "+path, "alice", "book")
	}
	if !strings.Contains(n.log.String(), session.ErrCommitted.Error()) {
		t.Error("the log does not tell that a change came too late")
	}
}

func destroyTooLate(t *place) {
	n := t.node(session.Options{})
	errs := make(chan error, 1)
	n.handle("/late-signout", func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		io.WriteString(w, "begun")
		s.Destroy()
		s.Save(r.Context())
		errs <- s.Err()
	})
	b := t.signedIn(n, "alice")
	if a := b.see(n, "/late-signout"); a.setsCookie() {
		t.Errorf("Set-Cookie %q", a.header["Set-Cookie"])
	}
	t.wantErr("Err after Destroy came too late", receive(t, "the handler", errs), session.ErrCommitted)
	b.see(n, "/read").nobody(t, "after a Destroy that came too late for the cookie")
}

func saveCommitsAtOnce(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.signedIn(one, "alice")
	one.handle("/save", func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		cart.Set(s, "pen")
		if err := s.Save(r.Context()); err != nil {
			t.Errorf("Save: %v", err)
		}
		if !t.b.ClientSide {
			b.copy().see(two, "/read").shows(t, "while the handler runs", "alice", "pen")
		}
		theme.Set(s, "dark")
		writePage(w, show(s))
	})
	b.see(one, "/save")
	if a := b.see(two, "/read"); a.Cart != "pen" || a.Theme != "dark" {
		t.Errorf("after Save and a commit: %s", a.body)
	}
}

func panicCommitsNothing(t *place) {
	n := t.node(session.Options{})
	n.handle("/panic", func(_ http.ResponseWriter, _ *http.Request, s *session.Session) {
		cart.Set(s, "half-done")
		s.SetUser("mallory")
		panic("the handler's mistake")
	})
	b := t.signedIn(n, "alice")
	n.store.Reset()
	for _, browser := range []*browser{b, t.browser()} {
		if a, err := browser.visit(t.Context(), n, "/panic"); err == nil {
			t.Errorf("the panic did not go on up: the answer is %d %q", a.status, a.body)
		}
	}
	if n.store.Calls(Save, Delete) != 0 {
		t.Errorf("a panic saved something")
	}
	b.see(n, "/read").shows(t, "after the panic", "alice", "book")
}

func tooLarge(t *place) {
	n := t.node(session.Options{MaxData: 600})
	large := make(chan error, 1)
	n.handle("/large", func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
		cart.Set(s, strings.Repeat("x", 700))
		_, err := io.WriteString(w, "kept")
		large <- err
	})
	b := t.signedIn(n, "alice")
	old := b.token()
	for _, browser := range []*browser{b, t.browser()} {
		a := browser.get(n, "/large")
		t.wantErr("Write", receive(t, "the handler", large), session.ErrTooLarge)
		if a.status != http.StatusInternalServerError || strings.Contains(a.body, "kept") || a.setsCookie() {
			t.Errorf("status %d, body %q, Set-Cookie %q; want a 500", a.status, a.body, a.header["Set-Cookie"])
		}
	}
	if b.token() != old {
		t.Error("the cookie changed")
	}
	b.see(n, "/read").shows(t, "afterwards", "alice", "book")
}

func setAfterBegun(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	errs := make(chan error, 1)
	for i, begin := range []func(w http.ResponseWriter){
		func(w http.ResponseWriter) { io.WriteString(w, "begun") },
		func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
	} {
		path := fmt.Sprintf("/stream%d", i)
		value := fmt.Sprintf("late %d", i)
		one.handle(path, func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
			begin(w)
			theme.Set(s, value)
			errs <- s.Err()
		})
		b := t.signedIn(one, "alice")
		b.see(one, path)
		if err := receive(t, "the handler", errs); err != nil {
			t.Errorf("Err: %v", err)
		}
		if a := b.see(two, "/read"); a.Theme != value {
			t.Errorf("a value set after the response began is lost: %s", a.body)
		}
	}
}

func hijacked(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	saves := make(chan int, 2)
	for path, hijack := range map[string]func(w http.ResponseWriter) (io.WriteCloser, error){
		"/socket": func(w http.ResponseWriter) (io.WriteCloser, error) {
			c, _, err := w.(http.Hijacker).Hijack()
			return c, err
		},
		"/controller": func(w http.ResponseWriter) (io.WriteCloser, error) {
			c, _, err := http.NewResponseController(w).Hijack()
			return c, err
		},
	} {
		one.handle(path, func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
			cart.Set(s, path)
			c, err := hijack(w)
			if err != nil {
				t.Errorf("Hijack: %v", err)
				return
			}
			saves <- one.store.Calls(Save)
			out := bufio.NewWriter(c)
			fmt.Fprint(out, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
			out.Flush()
			c.Close()
		})
		b := t.signedIn(one, "alice")
		one.store.Reset()
		b.see(one, path)
		if n := receive(t, "the handler", saves); n != 1 {
			t.Errorf("%s: %d saves when the connection was the handler's; want 1", path, n)
		}
		b.see(two, "/read").shows(t, path, "alice", path)
	}
}

func clientHangsUp(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	began, ended := make(chan struct{}), make(chan error, 1)
	one.handle("/order", func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		close(began)
		<-r.Context().Done() // the client has gone
		cart.Set(s, "paid")
		w.WriteHeader(http.StatusOK)
		ended <- s.Err()
	})
	b := t.signedIn(one, "alice")
	ctx, hangUp := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := b.visit(ctx, one, "/order")
		answered <- err
	}()
	receive(t, "the order", began)
	hangUp()
	if err := receive(t, "the client's error", answered); !errors.Is(err, context.Canceled) {
		t.Errorf("the client got %v", err)
	}
	if err := receive(t, "the end of the order", ended); err != nil {
		t.Errorf("Err: %v", err)
	}
	b.see(two, "/read").shows(t, "after the client hung up", "alice", "paid")
}

// clientHTTPPromises are what a site may expect of tokens that hold the session.
var clientHTTPPromises = []promise{
	{"of two responses at once the last that the browser receives wins", lastResponseWins},
	{"a change after the response began is ErrCommitted, and the old session stays", clientChangeTooLate},
	{"a reader's token is sealed again only past half of the idle time", resealsLate},
	{"MaxSessions needs a store that can list", maxSessionsRefused},
}

func lastResponseWins(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.signedIn(one, "alice")
	gateOne, _ := one.held("/held", setValues)
	gateTwo, _ := two.held("/held", setValues)
	first, second := b.start(one, "/held?cart=pen"), b.start(two, "/held?theme=dark")
	receive(t, "the first request", gateOne.Arrived())
	receive(t, "the second request", gateTwo.Arrived())
	gateOne.Open()
	receive(t, "the first answer", first)
	b.see(two, "/read").shows(t, "after the first answer", "alice", "pen")
	gateTwo.Open()
	receive(t, "the second answer", second)
	a := b.see(one, "/read")
	a.shows(t, "after the second answer", "alice", "book")
	if a.Theme != "dark" {
		t.Errorf("after the second answer: %s", a.body)
	}
}

func clientChangeTooLate(t *place) {
	n := t.node(session.Options{})
	errs := make(chan error, 1)
	n.handle("/stream", func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		io.WriteString(w, "begun")
		cart.Set(s, "late")
		s.Save(r.Context())
		errs <- s.Err()
	})
	b := t.signedIn(n, "alice")
	old := b.token()
	b.see(n, "/stream")
	t.wantErr("Err", receive(t, "the handler", errs), session.ErrCommitted)
	if b.token() != old {
		t.Error("the token changed")
	}
	b.see(n, "/read").shows(t, "afterwards", "alice", "book")
}

func resealsLate(t *place) {
	n := t.node(session.Options{IdleTimeout: time30})
	b := t.signedIn(n, "alice")
	old := b.token()
	t.advance(time30 / 3)
	if b.see(n, "/read"); b.token() != old {
		t.Error("a reader got a new token after a third of the idle time")
	}
	t.advance(time30 / 3)
	if a := b.see(n, "/read"); b.token() == old || !a.setsCookie() {
		t.Error("a reader got no new token after two thirds of the idle time")
	}
	t.advance(time30 * 2 / 3)
	b.see(n, "/read").shows(t, "within the idle time of the new token", "alice", "book")
}

func maxSessionsRefused(t *place) {
	s := t.open()
	if _, ok := session.As[session.Lister](s); ok {
		t.Skip("this store can list")
	}
	_, err := session.New(s, &session.Options{MaxSessions: 2})
	t.wantErr("New with MaxSessions", err, session.ErrConfig)
}
