// Package shop is the application of the examples: a tea shop that uses every
// part of a session and shows on its page what is going on in it.
//
// It knows the store only as a session.Store, so whichever backends a program
// imports, the shop is the same.
package shop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"time"

	"github.com/distsession/session"
)

// The values that the shop keeps in a session.
var (
	cart   = session.NewKey[map[string]int]("cart") // quantities by product
	visits = session.NewKey[int]("visits")
	flash  = session.NewKey[string]("flash") // shown once, on the next page
)

// Options configure the shop.
type Options struct {
	Name   string       // of this process, as the page shows it
	Secure bool         // the browser comes over https, so the cookie is "__Host-session", Secure; else it is for plain http on localhost
	Logger *slog.Logger // nil is slog.Default()
	Framed bool         // pages of the same site may show the shop in a frame
}

const (
	rememberFor  = 30 * 24 * time.Hour
	storeTimeout = 3 * time.Second // of the calls that the shop itself makes
	maxBody      = 16 << 10
	maxQuantity  = 99
)

type shop struct {
	store     session.Store
	storeName string // as the page shows it: no secrets
	name      string
	log       *slog.Logger
	canEndAll bool // the store can end all sessions of a user
}

// New returns the shop with its sessions in store. storeName is what the page
// calls it.
func New(store session.Store, storeName string, opts Options) (http.Handler, error) {
	a := &shop{store: store, storeName: storeName, name: opts.Name, log: opts.Logger}
	if a.log == nil {
		a.log = slog.Default()
	}
	// User "" has no sessions: this only asks whether the store can.
	_, err := session.DeleteUser(context.Background(), store, "", "")
	a.canEndAll = !errors.Is(err, errors.ErrUnsupported)
	sessions, err := session.New(store, &session.Options{
		PersistLifetime: rememberFor,
		Device:          Device,
		ErrorHandler:    a.closed,
		Logger:          opts.Logger,
		Insecure:        !opts.Secure,
	})
	if err != nil {
		return nil, err
	}

	pages := http.NewServeMux()
	pages.HandleFunc("GET /{$}", a.with(a.home))
	pages.HandleFunc("POST /cart/add", a.with(a.add))
	pages.HandleFunc("POST /cart/remove", a.with(a.remove))
	pages.HandleFunc("POST /signin", a.with(a.signIn))
	pages.HandleFunc("POST /signout", a.with(a.signOut))
	pages.HandleFunc("POST /devices/signout", a.with(a.signedIn(a.signOutThere)))
	pages.HandleFunc("POST /devices/signout-others", a.with(a.signedIn(a.signOutOthers)))

	mux := http.NewServeMux()
	mux.Handle("/", sessions.Handler(pages))
	mux.HandleFunc("GET /style.css", asset("style.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /icon.svg", asset("icon.svg", "image/svg+xml"))

	csrf := http.NewCrossOriginProtection()
	csrf.SetDenyHandler(http.HandlerFunc(a.crossOrigin))
	ancestors := "'none'"
	if opts.Framed {
		ancestors = "'self'"
	}
	return secured(csrf.Handler(http.MaxBytesHandler(mux, maxBody)), ancestors), nil
}

// secured sets the headers that every answer has. Pages of ancestors may show
// the shop in a frame.
func secured(next http.Handler, ancestors string) http.Handler {
	policy := "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors " + ancestors
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// handler is an http.HandlerFunc that gets the session of its request.
type handler func(http.ResponseWriter, *http.Request, *session.Session)

func (a *shop) with(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		switch {
		case err != nil:
			return // the ErrorHandler answers
		case s.Replaced():
			a.tryAgain(w, r)
		default:
			h(w, r, s)
		}
	}
}

// home is the one page. It changes nothing but the visit counter and the
// flash message that it shows.
func (a *shop) home(w http.ResponseWriter, r *http.Request, s *session.Session) {
	visits.Update(s, func(n int) int { return n + 1 })
	message, _ := flash.Pop(s)

	// The commit would come by itself with the first byte. Now, the page can
	// show what was stored: of two visits at once each has its own number.
	if !a.saved(w, r, s) {
		return
	}
	p := a.newPage(s)
	p.Flash = message
	if s.User() != "" {
		devices, err := a.devices(r, s)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
		case err != nil:
			a.failed(w, r, fmt.Errorf("list the devices of a user: %w", err))
			return
		default:
			p.CanList, p.Devices = true, devices
		}
	}
	render(w, http.StatusOK, "home", p)
}

func (a *shop) add(w http.ResponseWriter, r *http.Request, s *session.Session) {
	a.change(w, r, s, func(n int) int { return min(n+1, maxQuantity) }, "One more in your cart: %s.")
}

func (a *shop) remove(w http.ResponseWriter, r *http.Request, s *session.Session) {
	a.change(w, r, s, func(n int) int { return max(n-1, 0) }, "One less in your cart: %s.")
}

// change replaces the quantity of the product that the form names.
func (a *shop) change(w http.ResponseWriter, r *http.Request, s *session.Session, quantity func(int) int, message string) {
	p, ok := findProduct(r.PostFormValue("product"))
	if !ok {
		a.notice(w, http.StatusBadRequest, notice{Title: "There is no such product", Text: "Nothing was changed."})
		return
	}
	cart.Update(s, func(old map[string]int) map[string]int {
		items := maps.Clone(old) // Update may run again: it leaves the old value alone
		if items == nil {
			items = map[string]int{}
		}
		items[p.ID] = quantity(items[p.ID])
		if items[p.ID] == 0 {
			delete(items, p.ID)
		}
		return items
	})
	flash.Set(s, fmt.Sprintf(message, p.Name))
	a.back(w, r, s)
}

// back saves and sends the browser to the home page, so that a reload does not
// repeat the change.
func (a *shop) back(w http.ResponseWriter, r *http.Request, s *session.Session) {
	if a.saved(w, r, s) {
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

// saved commits. If it could not, the request is answered or will be.
func (a *shop) saved(w http.ResponseWriter, r *http.Request, s *session.Session) bool {
	err := s.Save(r.Context())
	if errors.Is(err, session.ErrNotFound) {
		a.tryAgain(w, r) // signed out by another request, a moment ago
		return false
	}
	return err == nil // else the ErrorHandler answers
}

// tryAgain answers a request whose session another one ended or renewed while
// it was under way.
func (a *shop) tryAgain(w http.ResponseWriter, r *http.Request) {
	text := "Another tab signed in or out at the same moment. The page comes again by itself."
	if r.Method == http.MethodPost {
		text = "Another tab signed in or out at the same moment, so nothing was changed. The shop comes again by itself."
	}
	a.notice(w, http.StatusConflict, notice{Title: "One moment", Text: text, Again: true})
}

// closed is the ErrorHandler. The manager has logged the error.
func (a *shop) closed(w http.ResponseWriter, _ *http.Request, err error) {
	if errors.Is(err, session.ErrTooLarge) {
		a.notice(w, http.StatusRequestEntityTooLarge, notice{
			Title: "That does not fit", Text: "This store cannot keep so much in one session. Nothing was changed.",
		})
		return
	}
	w.Header().Set("Retry-After", "2")
	a.notice(w, http.StatusServiceUnavailable, notice{
		Title: "The shop is closed for a moment",
		Text:  "The place where sessions are kept does not answer. That signs nobody out; please try again.",
	})
}

// failed answers when a call of the store failed that the shop itself made.
func (a *shop) failed(w http.ResponseWriter, r *http.Request, err error) {
	a.log.Error("shop: the store failed", "error", err, "method", r.Method, "path", r.URL.Path)
	a.closed(w, r, err)
}

func (a *shop) crossOrigin(w http.ResponseWriter, r *http.Request) {
	a.notice(w, http.StatusForbidden, notice{
		Title: "That came from another site", Text: "Nothing was changed. If you meant it, do it here in the shop.",
	})
}

// storeContext bounds the store's calls that the shop itself makes.
func storeContext(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), storeTimeout)
}

func asset(name, contentType string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := files.ReadFile(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "max-age=60")
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(b))
	}
}
