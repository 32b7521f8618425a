package session_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/distsession/session"
)

// serve runs h until stop, and returns a browser that prints the pages it gets.
func serve(h http.Handler) (get func(path string), stop func()) {
	srv := httptest.NewServer(h)
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar}
	get = func(path string) {
		resp, err := client.Get(srv.URL + path)
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(string(body))
	}
	return get, srv.Close
}

// development makes a Manager as the examples need it.
func development() *session.Manager {
	m, err := session.New(session.NewMemoryStore(nil), &session.Options{Insecure: true})
	if err != nil {
		log.Fatal(err)
	}
	return m
}

// A Key is a package variable in a program.
func Example() {
	visits := session.NewKey[int]("visits")

	store, err := session.Open(context.Background(), "memory:") // or "redis://localhost:6379"
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close(store)
	sessions, err := session.New(store, &session.Options{Insecure: true}) // plain http, for localhost only
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return // the store failed; the answer is 503
		}
		n := visits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprintf(w, "You have been here %d times.\n", n)
	})

	get, stop := serve(sessions.Handler(mux))
	defer stop()
	get("/")
	get("/")
	// Output:
	// You have been here 1 times.
	// You have been here 2 times.
}

// An OAuth state is used once: of two requests that come back with it, also at
// the same moment, one alone gets it.
func ExampleKey_Take() {
	state := session.NewKey[string]("oauth_state")

	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		state.Set(s, "xyz") // in a program: rand.Text(), and a redirect to the provider
		fmt.Fprintln(w, "off to the provider")
	})
	mux.HandleFunc("/callback", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		want, ok, err := state.Take(r.Context(), s)
		switch {
		case errors.Is(err, session.ErrNotFound) || err == nil && (!ok || r.FormValue("state") != want):
			http.Error(w, "that sign-in was not begun here, or has been used", http.StatusForbidden)
		case err != nil:
			return // the store failed; the answer is 503
		default:
			fmt.Fprintln(w, "the state is right")
		}
	})

	get, stop := serve(development().Handler(mux))
	defer stop()
	get("/login")
	get("/callback?state=xyz")
	get("/callback?state=xyz")
	// Output:
	// off to the provider
	// the state is right
	// that sign-in was not begun here, or has been used
}

// Signing in gives the session a new token, and the old one is worth nothing.
// What the visitor had in it stays.
func ExampleSession_SetUser() {
	cart := session.NewKey[[]string]("cart")

	mux := http.NewServeMux()
	mux.HandleFunc("/add", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		items := cart.Update(s, func(items []string) []string { return append(slices.Clip(items), "tea") })
		fmt.Fprintf(w, "%q has %v\n", s.User(), items)
	})
	mux.HandleFunc("/signin", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		// Check the password or the passkey here.
		before := s.ID()
		s.SetUser("alice")
		s.Persist(true) // "remember me"
		items, _ := cart.Get(s)
		fmt.Fprintf(w, "%q has %v, in another session: %t\n", s.User(), items, s.ID() != before)
	})

	get, stop := serve(development().Handler(mux))
	defer stop()
	get("/add")
	get("/signin")
	get("/add")
	// Output:
	// "" has [tea]
	// "alice" has [tea], in another session: true
	// "alice" has [tea tea]
}

// Signing out ends the session in the store, so that a copy of its token is
// worth nothing. What is set after it begins a new one.
func ExampleSession_Destroy() {
	notice := session.NewKey[string]("notice")

	mux := http.NewServeMux()
	mux.HandleFunc("/signin", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		s.SetUser("alice")
		fmt.Fprintf(w, "hello %s\n", s.User())
	})
	mux.HandleFunc("/signout", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		s.Destroy()
		notice.Set(s, "You are signed out.")
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		text, _ := notice.Pop(s) // shown once
		fmt.Fprintf(w, "user %q, notice %q\n", s.User(), text)
	})

	get, stop := serve(development().Handler(mux))
	defer stop()
	get("/signin")
	get("/")
	get("/signout")
	get("/")
	// Output:
	// hello alice
	// user "alice", notice ""
	// user "", notice "You are signed out."
	// user "", notice ""
}

// A message queue or a gRPC service carries the token in its own metadata.
func ExampleManager_Session() {
	jobs := session.NewKey[int]("jobs")
	sessions := development()

	handle := func(ctx context.Context, token string) (string, error) {
		s, err := sessions.Session(ctx, token)
		if err != nil {
			return "", err // the store failed
		}
		n := jobs.Update(s, func(n int) int { return n + 1 })
		fmt.Printf("job %d, new session: %t\n", n, s.IsNew())
		return sessions.Commit(ctx, s) // the token that the client holds from now on
	}

	token, err := handle(context.Background(), "")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := handle(context.Background(), token); err != nil {
		log.Fatal(err)
	}
	// Output:
	// job 1, new session: true
	// job 2, new session: false
}

// A URL that cannot be used is ErrConfig, and its message says what to do. No
// message shows a password.
func ExampleOpen() {
	for _, url := range []string{
		"memory:?max=100000",
		"memory:?maximum=100000",
		"memory:?max=many",
	} {
		store, err := session.Open(context.Background(), url)
		if errors.Is(err, session.ErrConfig) {
			fmt.Println(err)
			continue
		}
		fmt.Printf("%T\n", store)
		session.Close(store)
	}
	// Output:
	// *session.MemoryStore
	// session: invalid configuration: memory: parameter "maximum" is not known; known: max
	// session: invalid configuration: memory: parameter max is "many"; it takes a whole number of at least 0
}

// "Your devices", and "sign out everywhere else".
func ExampleList() {
	ctx := context.Background()
	store := session.NewMemoryStore(nil)
	sessions, err := session.New(store, &session.Options{
		Insecure: true,
		Device:   func(r *http.Request) string { return r.FormValue("device") }, // in a program: from the User-Agent
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/signin", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		s.SetUser("alice")
	})
	for _, device := range []string{"laptop", "phone"} {
		get, stop := serve(sessions.Handler(mux))
		get("/signin?device=" + device)
		stop()
	}

	var keep string
	for info, err := range session.List(ctx, store, "alice") {
		if errors.Is(err, errors.ErrUnsupported) {
			break // the clients alone keep the sessions
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.User, "on a", info.Device)
		if info.Device == "laptop" {
			keep = info.ID // in a program: s.ID()
		}
	}
	n, err := session.DeleteUser(ctx, store, "alice", keep)
	fmt.Println("signed out elsewhere:", n, err)
	// Unordered output:
	// alice on a laptop
	// alice on a phone
	// signed out elsewhere: 1 <nil>
}

// Values sealed at rest, under a key that the database does not have.
func ExampleEncrypted() {
	ctx := context.Background()
	database := session.NewMemoryStore(nil)
	key := make([]byte, 32)
	rand.Read(key) // in a program: from a secret, the same on every node
	store, err := session.Encrypted(database, [][]byte{key})
	if err != nil {
		log.Fatal(err)
	}
	token := session.NewToken()
	_, err = store.Save(ctx, &session.Record{
		ID: session.ID(token), Expires: time.Now().Add(time.Hour), Data: []byte(`{"card":"4242"}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	sealed, _ := database.Load(ctx, token)
	opened, _ := store.Load(ctx, token)
	fmt.Println("the database can read it:", strings.Contains(string(sealed.Data), "4242"))
	fmt.Printf("the application: %s\n", opened.Data)
	// Output:
	// the database can read it: false
	// the application: {"card":"4242"}
}

// Sessions in the node's own memory: a copy is read for up to MaxStale, and the
// backup, which all nodes share, has the truth. A change goes to both.
func ExampleCached() {
	ctx := context.Background()
	database := session.NewMemoryStore(nil) // in a program: what Open returned
	one := session.Cached(database, &session.CachedOptions{MaxStale: time.Minute})
	two := session.Cached(database, &session.CachedOptions{MaxStale: time.Minute})

	token := session.NewToken()
	_, err := one.Save(ctx, &session.Record{
		ID: session.ID(token), Expires: time.Now().Add(time.Hour), Data: []byte(`{"cart":["tea"]}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	rec, _ := two.Load(ctx, token) // has a copy now
	rec.Data = []byte(`{"cart":["tea","milk"]}`)
	if _, err = one.Save(ctx, rec); err != nil {
		log.Fatal(err)
	}
	rec, _ = two.Load(ctx, token)
	fmt.Printf("anybody may see for a minute: %s\n", rec.Data)
	// The manager knows which version this browser has seen.
	loader, _ := session.As[session.AtLeaster](two)
	rec, _ = loader.LoadAtLeast(ctx, token, 2)
	fmt.Printf("who has changed it sees:      %s\n", rec.Data)
	// Output:
	// anybody may see for a minute: {"cart":["tea"]}
	// who has changed it sees:      {"cart":["tea","milk"]}
}

// From one backend to another while both are in use: this is what a node does
// in the second roll-out, once every node has had Migrating(old, new).
func ExampleMigrating() {
	ctx := context.Background()
	old, next := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
	token := session.NewToken()
	_, err := old.Save(ctx, &session.Record{
		ID: session.ID(token), User: "alice", Expires: time.Now().Add(time.Hour), Data: []byte(`{"cart":["tea"]}`),
	})
	if err != nil {
		log.Fatal(err)
	}

	store, err := session.Migrating(next, old)
	if err != nil {
		log.Fatal(err)
	}
	rec, err := store.Load(ctx, token) // moves it
	fmt.Printf("%s has %s, %v\n", rec.User, rec.Data, err)
	rec, err = next.Load(ctx, token)
	fmt.Printf("in the new store: %s, %v\n", rec.Data, err)
	moved, err := session.MoveAll(ctx, store) // those who do not come
	fmt.Println("more to move:", moved, err)
	// Output:
	// alice has {"cart":["tea"]}, <nil>
	// in the new store: {"cart":["tea"]}, <nil>
	// more to move: 0 <nil>
}
