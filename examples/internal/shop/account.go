package shop

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/distsession/session"
)

const maxName = 40

// signIn believes every name: this is a demonstration of sessions. Yours
// checks a password or a passkey before SetUser.
func (a *shop) signIn(w http.ResponseWriter, r *http.Request, s *session.Session) {
	user := strings.TrimSpace(r.PostFormValue("user"))
	if !validName(user) {
		flash.Set(s, fmt.Sprintf("Please give a name of 1 to %d characters.", maxName))
		a.back(w, r, s)
		return
	}
	remember := r.PostFormValue("remember") != ""
	s.SetUser(user) // a new token; the cart of the visitor stays
	s.Persist(remember)
	welcome := fmt.Sprintf("Welcome, %s.", user)
	if remember {
		welcome += " This browser remembers you for 30 days."
	}
	flash.Set(s, welcome)
	a.back(w, r, s)
}

func validName(name string) bool {
	return name != "" && utf8.ValidString(name) && utf8.RuneCountInString(name) <= maxName &&
		!strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) })
}

func (a *shop) signOut(w http.ResponseWriter, r *http.Request, s *session.Session) {
	s.Destroy()
	flash.Set(s, "You are signed out, and your cart is gone with the session.") // begins a new session
	a.back(w, r, s)
}

// signedIn lets only users through.
func (a *shop) signedIn(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		if s.User() == "" {
			flash.Set(s, "Please sign in first.")
			a.back(w, r, s)
			return
		}
		h(w, r, s)
	}
}

// signOutThere ends one of the user's own sessions: an ID is no secret, so
// that it is theirs is checked here, not by the store.
func (a *shop) signOutThere(w http.ResponseWriter, r *http.Request, s *session.Session) {
	id := r.PostFormValue("id")
	if id == s.ID() {
		a.signOut(w, r, s)
		return
	}
	devices, err := a.devices(r, s)
	if err != nil {
		a.cannot(w, r, s, err)
		return
	}
	i := slices.IndexFunc(devices, func(d device) bool { return d.ID == id })
	if i < 0 {
		flash.Set(s, "That session is not one of yours, or has ended already.")
		a.back(w, r, s)
		return
	}
	ctx, cancel := storeContext(r)
	defer cancel()
	if err := a.store.Delete(ctx, id); err != nil {
		a.cannot(w, r, s, err)
		return
	}
	flash.Set(s, fmt.Sprintf("Signed out: %s.", devices[i].Name))
	a.back(w, r, s)
}

// signOutOthers ends all of the user's sessions but this one.
func (a *shop) signOutOthers(w http.ResponseWriter, r *http.Request, s *session.Session) {
	ctx, cancel := storeContext(r)
	defer cancel()
	n, err := session.DeleteUser(ctx, a.store, s.User(), s.ID())
	_, counts := session.As[session.Lister](a.store)
	switch {
	case err != nil:
		a.cannot(w, r, s, err)
		return
	case n > 0:
		flash.Set(s, fmt.Sprintf("Signed out everywhere else: %d.", n))
	case counts:
		flash.Set(s, "You are signed in nowhere else.")
	default: // a client-side store
		flash.Set(s, "The store was told to sign you out everywhere else. It cannot tell how many sessions that were.")
	}
	a.back(w, r, s)
}

// cannot answers for what the store failed at, or never does.
func (a *shop) cannot(w http.ResponseWriter, r *http.Request, s *session.Session, err error) {
	if !errors.Is(err, errors.ErrUnsupported) {
		a.failed(w, r, err)
		return
	}
	flash.Set(s, "This store cannot do that: the browsers alone keep the sessions.")
	a.back(w, r, s)
}

// device is one line of "your devices".
type device struct {
	session.Info
	Name string
	Here bool // it is the one that asks
}

// devices returns the sessions of who is signed in, the one that asks first,
// then the latest.
func (a *shop) devices(r *http.Request, s *session.Session) ([]device, error) {
	ctx, cancel := storeContext(r)
	defer cancel()
	var found []device
	for info, err := range session.List(ctx, a.store, s.User()) {
		if err != nil {
			return nil, err
		}
		found = append(found, device{Info: info, Name: cmp.Or(info.Device, "a device"), Here: info.ID == s.ID()})
	}
	slices.SortFunc(found, func(x, y device) int {
		if x.Here != y.Here {
			if x.Here {
				return -1
			}
			return 1
		}
		return cmp.Or(y.SignedIn.Compare(x.SignedIn), cmp.Compare(x.ID, y.ID))
	})
	return found, nil
}

// Device names a client by its User-Agent, such as "Firefox on Linux". It is
// for people to tell their sessions apart; a client can say what it likes.
func Device(r *http.Request) string {
	agent := r.UserAgent()
	browser := firstOf(agent, "an unknown program", [][2]string{
		{"Edg", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser/", "Samsung Internet"},
		{"Firefox/", "Firefox"}, {"FxiOS/", "Firefox"},
		{"HeadlessChrome/", "Chrome (headless)"}, {"Chromium/", "Chromium"}, {"Chrome/", "Chrome"}, {"CriOS/", "Chrome"},
		{"Safari/", "Safari"}, {"curl/", "curl"}, {"Go-http-client/", "a Go program"},
	})
	system := firstOf(agent, "", [][2]string{
		{"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Windows", "Windows"},
		{"CrOS", "ChromeOS"}, {"Mac OS X", "Mac"}, {"Linux", "Linux"},
	})
	if system == "" {
		return browser
	}
	return browser + " on " + system
}

// firstOf returns the name of the first mark that text contains.
func firstOf(text, otherwise string, marks [][2]string) string {
	for _, m := range marks {
		if strings.Contains(text, m[0]) {
			return m[1]
		}
	}
	return otherwise
}
