package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/examples/internal/shop"
)

// Every scheme that this program knows has an example, and the examples can be
// parsed: what opens them is at worst not there.
func TestExamples(t *testing.T) {
	shown := map[string]bool{
		"rediss": true, "rediss+cluster": true, "rediss+sentinel": true, // as the ones without TLS
		"cached": true, "encrypted": true, "migrating": true, // around another
	}
	for _, e := range shop.Examples {
		u, err := url.Parse(e.URL)
		if err != nil || e.About == "" {
			t.Errorf("%s: %v, about %q", e.URL, err, e.About)
			continue
		}
		shown[u.Scheme] = true
	}
	for alias, of := range map[string]string{"postgresql": "postgres", "mysql": "mariadb", "memcacheds": "memcached", "infinispan": "memcached", "infinispans": "memcached", "hazelcasts": "hazelcast", "ignites": "ignite", "nats+tls": "nats"} {
		shown[alias] = shown[of]
	}
	for _, scheme := range session.Schemes() {
		if !shown[scheme] {
			t.Errorf("no example shows %s:", scheme)
		}
	}
}

// The shop works on the stores that need no server.
func TestShop(t *testing.T) {
	dir := t.TempDir()
	for _, store := range []string{
		"sqlite://" + filepath.Join(dir, "sessions.db"),
		"file://" + filepath.Join(dir, "sessions") + "?create=true",
		"nats+embedded:?dir=" + url.QueryEscape(filepath.Join(dir, "nats")),
		"cached:?store=" + url.QueryEscape("file://"+filepath.Join(dir, "sessions")),
		"migrating:?to=" + url.QueryEscape("file://"+filepath.Join(dir, "more")+"?create=true") + "&from=" + url.QueryEscape("sqlite://"+filepath.Join(dir, "sessions.db")),
	} {
		t.Run(shop.Redact(store), func(t *testing.T) {
			s, err := session.Open(t.Context(), store)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close(s)
			h, err := shop.New(s, shop.Redact(store), shop.Options{Name: "here"})
			if err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewServer(h)
			defer srv.Close()
			jar, _ := cookiejar.New(nil)
			client := &http.Client{Jar: jar}
			page := post(t, client, srv.URL+"/cart/add", url.Values{"product": {"green"}})
			if !strings.Contains(page, "One more in your cart: Green tea.") {
				t.Errorf("after the cart:\n%s", page)
			}
			page = post(t, client, srv.URL+"/signin", url.Values{"user": {"ann"}})
			if !strings.Contains(page, "Welcome, ann.") {
				t.Errorf("after the sign-in:\n%s", page)
			}
			if page := post(t, client, srv.URL+"/signout", nil); strings.Contains(page, "ann") {
				t.Errorf("after the sign-out:\n%s", page)
			}
		})
	}
}

func post(t *testing.T, client *http.Client, at string, form url.Values) string {
	t.Helper()
	res, err := client.PostForm(at, form)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 400 {
		t.Fatalf("%s: %d, %v", at, res.StatusCode, err)
	}
	return string(body)
}

// A database that is not there is found at the start, with what to do.
func TestStart(t *testing.T) {
	c := shop.Config{Addr: "localhost:0", Store: "postgres://user@localhost:1/db?connect_timeout=1"}
	err := shop.Run(context.Background(), c, io.Discard)
	if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "postgres://…@localhost:1") {
		t.Errorf("%v", err)
	}
}
