package sticky_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/distsession/session/sticky"
)

// backend is a node that says its name.
func backend(t testing.TB, id string) sticky.Node {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, id) }))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return sticky.Node{ID: id, URL: u}
}

func TestSmoke(t *testing.T) {
	p, err := sticky.New([]sticky.Node{backend(t, "a"), backend(t, "b"), backend(t, "c")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Shutdown(t.Context())
	s := httptest.NewServer(p)
	defer s.Close()
	var cookie *http.Cookie
	where := ""
	for i := range 20 {
		req, _ := http.NewRequest("GET", s.URL, nil)
		if cookie != nil {
			req.AddCookie(cookie)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if i == 0 {
			cookie, where = res.Cookies()[0], string(b)
			t.Log(res.Header, where)
		} else if string(b) != where || len(res.Cookies()) > 0 {
			t.Fatal(i, string(b), where)
		}
	}
	t.Log(p)
}
