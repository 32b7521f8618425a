package shop

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/distsession/session"
)

//go:embed page.html style.css icon.svg
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"price": func(cents int) string { return fmt.Sprintf("€%d.%02d", cents/100, cents%100) },
	"clock": func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05 UTC") },
	"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"away":  func(t time.Time) string { return away(time.Until(t)) },
	"short": func(id string) string { return id[:min(8, len(id))] },
}).ParseFS(files, "page.html"))

type product struct {
	ID, Name, About string
	Cents           int
}

var products = []product{
	{"green", "Green tea", "Sencha from Shizuoka, 100 g", 890},
	{"black", "Black tea", "Assam, strong and malty, 100 g", 650},
	{"pot", "Teapot", "Cast iron, keeps warm for an hour", 3400},
	{"cup", "Cup", "Stoneware, a different blue each", 1200},
	{"biscuits", "Shortbread", "Twelve pieces, butter and salt", 475},
}

func findProduct(id string) (product, bool) {
	for _, p := range products {
		if p.ID == id {
			return p, true
		}
	}
	return product{}, false
}

// line is one line of the cart.
type line struct {
	product
	Quantity, Sum int
}

// value is one value of the session, as the store keeps it.
type value struct {
	Name, JSON string
	Size       int
}

// page is what the home page shows.
type page struct {
	Process, Store string
	User, Flash    string

	ID                         string
	New                        bool
	Created, SignedIn, Expires time.Time
	Visits                     int
	Values                     []value

	Products []product
	Cart     []line
	Total    int

	CanList, CanEndAll bool
	Devices            []device
}

func (a *shop) newPage(s *session.Session) *page {
	p := &page{
		Process: a.name, Store: a.storeName, User: s.User(),
		ID: s.ID(), New: s.IsNew(), Created: s.Created(), SignedIn: s.SignedIn(), Expires: s.Expires(),
		Products: products, CanEndAll: a.canEndAll,
	}
	p.Visits, _ = visits.Get(s)
	items, _ := cart.Get(s)
	for _, it := range products {
		if n := items[it.ID]; n > 0 {
			p.Cart = append(p.Cart, line{it, n, n * it.Cents})
			p.Total += n * it.Cents
		}
	}
	p.Values = append(valueOf(s, visits), valueOf(s, cart)...)
	return p
}

func valueOf[T any](s *session.Session, k session.Key[T]) []value {
	v, ok := k.Get(s)
	if !ok {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return []value{{k.Name(), string(b), len(b)}}
}

// away says how far off a time is: "in 29 min", "5 s ago".
func away(d time.Duration) string {
	ago := d < 0
	d = d.Abs()
	var text string
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		text = fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		text = fmt.Sprintf("%d min", d.Round(time.Minute)/time.Minute)
	case d < 48*time.Hour:
		text = fmt.Sprintf("%d h", d.Round(time.Hour)/time.Hour)
	default:
		text = fmt.Sprintf("%d days", d.Round(time.Hour)/(24*time.Hour))
	}
	if ago {
		return text + " ago"
	}
	return "in " + text
}

// notice is a page that says one thing.
type notice struct {
	Title, Text string
	Again       bool // it loads the shop again by itself
	Process     string
	Store       string
}

func (a *shop) notice(w http.ResponseWriter, status int, n notice) {
	n.Process, n.Store = a.name, a.storeName
	render(w, status, "notice", n)
}

// render answers with a page. It is one user's page: no cache keeps it.
func render(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		panic(err) // a mistake in the template
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}
