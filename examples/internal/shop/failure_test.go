package shop_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/distsession/session"
)

// broken is a store that does what its hook says before each call.
type broken struct {
	session.Store
	hook atomic.Pointer[func(op string) error]
}

func (b *broken) on(hook func(op string) error) { b.hook.Store(&hook) }

func (b *broken) Unwrap() session.Store { return b.Store }

func (b *broken) call(op string) error {
	if f := b.hook.Load(); f != nil {
		return (*f)(op)
	}
	return nil
}

func (b *broken) Load(ctx context.Context, token string) (*session.Record, error) {
	if err := b.call("load"); err != nil {
		return nil, err
	}
	return b.Store.Load(ctx, token)
}

func (b *broken) Save(ctx context.Context, rec *session.Record) (string, error) {
	if err := b.call("save"); err != nil {
		return "", err
	}
	return b.Store.Save(ctx, rec)
}

func (b *broken) Delete(ctx context.Context, id string) error {
	if err := b.call("delete"); err != nil {
		return err
	}
	return b.Store.Delete(ctx, id)
}

func TestStoreFails(t *testing.T) {
	store := &broken{Store: session.NewMemoryStore(nil)}
	u := serve(t, store, "n")
	b, other := newBrowser(t, firefox), newBrowser(t, phone)
	b.post(u+"/signin", "user", "alice")
	otherID := idIn(t, other.post(u+"/signin", "user", "alice"))
	for _, tt := range []struct {
		fails, path string
		form        url.Values
	}{
		{"load", "/", nil},
		{"save", "/", nil},
		{"save", "/cart/add", url.Values{"product": {"green"}}},
		{"delete", "/signout", url.Values{}},
		{"delete", "/devices/signout", url.Values{"id": {otherID}}},
	} {
		store.on(func(op string) error {
			if op == tt.fails {
				return errors.New("secret detail")
			}
			return nil
		})
		before := b.cookie(u)
		status, page := b.do(u+tt.path, tt.form)
		if status != http.StatusServiceUnavailable || b.cookie(u).Value != before.Value {
			t.Errorf("%s fails at %s: status %d", tt.fails, tt.path, status)
		}
		has(t, page, "The shop is closed for a moment", "not:secret detail", "not:Hello")
		if n := strings.Count(page, "<!doctype"); n != 1 {
			t.Errorf("%s fails at %s: %d pages in one", tt.fails, tt.path, n)
		}
		store.on(func(string) error { return nil })
		has(t, b.get(u), "Hello, alice")
	}
}

func TestEndedMeanwhile(t *testing.T) {
	memory := session.NewMemoryStore(nil)
	store := &broken{Store: memory}
	u := serve(t, store, "n")
	for _, path := range []string{"/", "/cart/add"} {
		b := newBrowser(t, firefox)
		b.post(u+"/signin", "user", "alice")
		store.on(func(op string) error {
			if op == "save" {
				memory.DeleteUser(context.Background(), "alice", "")
			}
			return nil
		})
		form := url.Values{"product": {"green"}}
		if path == "/" {
			form = nil
		}
		status, page := b.do(u+path, form)
		if status != http.StatusConflict {
			t.Errorf("%s: status %d", path, status)
		}
		has(t, page, "One moment")
		store.on(func(string) error { return nil })
		has(t, b.get(u), "nobody is signed in")
	}
}

func TestReplacedMeanwhile(t *testing.T) {
	u := serve(t, session.NewMemoryStore(nil), "n")
	b := newBrowser(t, firefox)
	b.get(u)
	old := b.cookie(u)
	b.post(u+"/signin", "user", "alice")
	late := newBrowser(t, firefox)
	for path, form := range map[string]url.Values{"/": nil, "/cart/add": {"product": {"green"}}} {
		status, page := late.do(u+path, form, "Cookie", old.String())
		if status != http.StatusConflict || !strings.Contains(page, `http-equiv="refresh"`) || late.cookie(u) != nil {
			t.Errorf("%s: status %d, cookie %v:\n%s", path, status, late.cookie(u), page)
		}
	}
	has(t, b.get(u), "Hello, alice", "Nothing yet.")
}

// deleteOnly is a store that cannot list, as those are that keep sessions with
// the client.
type deleteOnly struct {
	session.Store
	deleteUser func(ctx context.Context, user, keep string) (int, error)
}

func (s deleteOnly) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	return s.deleteUser(ctx, user, keep)
}

func TestStoresThatCannotList(t *testing.T) {
	memory := session.NewMemoryStore(nil)
	for _, tt := range []struct {
		why   string
		store session.Store
		page  string
		ended string // what "sign out everywhere else" says
	}{
		{"neither lists nor ends", struct{ session.Store }{memory}, "not:Sign out everywhere else", "This store cannot do that"},
		{"says that it cannot end", deleteOnly{memory, func(context.Context, string, string) (int, error) {
			return 0, errors.ErrUnsupported
		}}, "not:Sign out everywhere else", "This store cannot do that"},
		{"ends and cannot count", deleteOnly{memory, func(ctx context.Context, user, keep string) (int, error) {
			_, err := memory.DeleteUser(ctx, user, keep)
			return 0, err
		}}, "Sign out everywhere else", "The store was told to sign you out everywhere else."},
	} {
		t.Run(tt.why, func(t *testing.T) {
			u := serve(t, tt.store, "n")
			b := newBrowser(t, firefox)
			has(t, b.post(u+"/signin", "user", "alice"), "Hello, alice", "there is no list", tt.page)
			has(t, b.post(u+"/devices/signout", "id", "x"), "This store cannot do that")
			has(t, b.post(u+"/devices/signout-others"), tt.ended, "Hello, alice")
		})
	}
}
