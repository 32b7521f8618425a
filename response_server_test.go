package session_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

// sess is the session of a request that has passed through a manager.
func sess(t testing.TB, r *http.Request) *session.Session {
	s, err := session.From(r.Context())
	if err != nil {
		t.Error(err)
	}
	return s
}

// noting is an outer middleware that tells when the server's ReadFrom is
// reached.
type noting struct {
	http.ResponseWriter
	reached *bool
}

func (w noting) ReadFrom(r io.Reader) (int64, error) {
	*w.reached = true
	return w.ResponseWriter.(io.ReaderFrom).ReadFrom(r)
}

func TestFilesAreSentByTheServer(t *testing.T) {
	name := filepath.Join(t.TempDir(), "page.html")
	text := strings.Repeat("<p>hello</p>", 10000)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		send func(w http.ResponseWriter, r *http.Request) error
	}{
		{"io.Copy of a file", func(w http.ResponseWriter, _ *http.Request) error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		}},
		{"http.ServeFile", func(w http.ResponseWriter, r *http.Request) error { http.ServeFile(w, r, name); return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, nil)
			reached := false
			h := s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				keyValue.Set(sess(t, r), "x")
				if err := c.send(w, r); err != nil {
					t.Error(err)
				}
			}))
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(noting{w, &reached}, r)
			}))
			defer srv.Close()
			res, err := srv.Client().Get(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			if got := body(t, res); got != text || len(res.Cookies()) != 1 || !reached {
				t.Errorf("%d bytes, cookies %v, the server's ReadFrom reached: %v", len(got), res.Cookies(), reached)
			}
		})
	}
}

func TestInformationalResponsesDoNotCommit(t *testing.T) {
	for _, code := range []int{100, 102, 103, 199} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			s := newSite(t, nil)
			srv := httptest.NewServer(s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				x := sess(t, r)
				w.Header().Set("Link", "</a.css>; rel=preload")
				w.WriteHeader(code)
				w.WriteHeader(code)
				keyValue.Set(x, "after")
				w.WriteHeader(http.StatusAccepted)
				w.WriteHeader(code) // too late, and no harm
			})))
			defer srv.Close()
			c, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			tp := textproto.NewReader(bufio.NewReader(c))
			var lines []string
			for {
				status, err := tp.ReadLine()
				if err != nil {
					break
				}
				h, err := tp.ReadMIMEHeader()
				if err != nil {
					break
				}
				lines = append(lines, fmt.Sprint(strings.Fields(status)[1], " ", len(h["Set-Cookie"])))
			}
			// net/http sends the 100 that it sends itself once.
			if got := strings.Join(lines, ", "); !strings.HasSuffix(got, "202 1") || !strings.HasPrefix(got, fmt.Sprint(code, " 0")) {
				t.Errorf("status and cookies: %s", got)
			}
		})
	}
}

// A server with everything: deadlines and full duplex need no commit, and
// still work after one.
func TestControllerOnARealServer(t *testing.T) {
	s := newSite(t, nil)
	srv := httptest.NewServer(s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := sess(t, r)
		c := http.NewResponseController(w)
		far := time.Now().Add(time.Hour)
		for range 2 {
			for name, err := range map[string]error{
				"EnableFullDuplex": c.EnableFullDuplex(), "SetReadDeadline": c.SetReadDeadline(far), "SetWriteDeadline": c.SetWriteDeadline(far),
			} {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			keyValue.Set(x, "x") // before and after the commit
			if err := c.Flush(); err != nil {
				t.Error(err)
			}
		}
		if err := x.Err(); err != nil {
			t.Error(err)
		}
	})))
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if body(t, res); len(res.Cookies()) != 1 {
		t.Errorf("cookies %v", res.Cookies())
	}
}

func TestSwitchingProtocolsCommits(t *testing.T) {
	s := newSite(t, nil)
	srv := httptest.NewServer(s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keyValue.Set(sess(t, r), "x")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		line, _ := rw.ReadString('\n')
		io.WriteString(c, line)
	})))
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "ping\n")
	line, _ := br.ReadString('\n')
	if res.StatusCode != 101 || len(res.Cookies()) != 1 || line != "ping\n" {
		t.Errorf("%s, cookies %v, echo %q", res.Status, res.Cookies(), line)
	}
}

func TestPanicCommitsNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(x *session.Session, w http.ResponseWriter)
	}{
		{"before anything was written", func(*session.Session, http.ResponseWriter) {}},
		{"after a 103", func(_ *session.Session, w http.ResponseWriter) { w.WriteHeader(103) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, nil)
			token := s.token(t, "/login?u=alice")
			s.store.reset()
			rec := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Cookie", "__Host-session="+token)
			func() {
				defer func() {
					if v := recover(); v != http.ErrAbortHandler {
						t.Errorf("the panic came up as %v", v)
					}
				}()
				s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					x := sess(t, r)
					c.first(x, w)
					keyValue.Set(x, "half done")
					x.SetUser("mallory")
					panic(http.ErrAbortHandler)
				})).ServeHTTP(rec, r)
			}()
			if n := s.store.writes(); n != 0 || len(rec.Header()["Set-Cookie"]) != 0 {
				t.Errorf("%d writes, header %v", n, rec.Header())
			}
			if _, a := s.get("/read", with(token)); a.User != "alice" || a.Value != "" {
				t.Errorf("after it: %+v", a)
			}
		})
	}
	t.Run("a sign-out that was saved stays", func(t *testing.T) {
		s := newSite(t, nil)
		token := s.token(t, "/login?u=alice")
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", "__Host-session="+token)
		func() {
			defer func() { _ = recover() }()
			s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				x := sess(t, r)
				x.Destroy()
				if err := x.Save(r.Context()); err != nil {
					t.Error(err)
				}
				panic("after it")
			})).ServeHTTP(httptest.NewRecorder(), r)
		}()
		if _, a := s.get("/read", with(token)); !a.New {
			t.Errorf("after it: %+v", a)
		}
	})
}

func TestHeaderWrittenTwiceOrNever(t *testing.T) {
	s := newSite(t, nil)
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
		code int
	}{
		{"twice: the first counts", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201); w.WriteHeader(500) }, 201},
		{"after a body", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x"); w.WriteHeader(500) }, 200},
		{"never", func(http.ResponseWriter, *http.Request) {}, 200},
		{"304", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, 304},
		{"204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.store.reset()
			rec := httptest.NewRecorder()
			s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				keyValue.Set(sess(t, r), "x")
				c.h(w, r)
			})).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
			if rec.Code != c.code || len(rec.Result().Cookies()) != 1 || s.store.count("save") != 1 {
				t.Errorf("%d, cookies %v, %d saves", rec.Code, rec.Result().Cookies(), s.store.count("save"))
			}
		})
	}
}

// A handler that is cut off answers 503 by http.TimeoutHandler; what it does
// afterwards reaches nobody and races with nothing.
func TestTimeoutHandler(t *testing.T) {
	for _, c := range []struct {
		name string
		wrap func(s *site, h http.Handler) http.Handler
	}{
		{"around the manager", func(s *site, h http.Handler) http.Handler {
			return http.TimeoutHandler(s.Handler(h), time.Second, "too slow")
		}},
		{"inside the manager", func(s *site, h http.Handler) http.Handler {
			return s.Handler(http.TimeoutHandler(h, time.Second, "too slow"))
		}},
	} {
		t.Run(c.name+", in time", func(t *testing.T) {
			s := newSite(t, nil)
			rec := httptest.NewRecorder()
			c.wrap(s, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				keyValue.Set(sess(t, r), "x")
				io.WriteString(w, "done")
			})).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
			if rec.Code != 200 || rec.Body.String() != "done" || len(rec.Result().Cookies()) != 1 {
				t.Errorf("%d %q, cookies %v", rec.Code, rec.Body, rec.Result().Cookies())
			}
		})
		t.Run(c.name+", too late", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, nil)
				defer s.memory.Close()
				token := s.token(t, "/login?u=alice")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
				r.Header.Set("Cookie", "__Host-session="+token)
				rec := httptest.NewRecorder()
				var done sync.WaitGroup
				done.Add(1)
				c.wrap(s, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer done.Done()
					x := sess(t, r)
					time.Sleep(2 * time.Second)
					keyValue.Set(x, "late")
					x.SetUser("bob")
					io.WriteString(w, "late")
				})).ServeHTTP(rec, r)
				done.Wait()
				synctest.Wait()
				if rec.Code != 503 || !strings.Contains(rec.Body.String(), "too slow") || len(rec.Result().Cookies()) != 0 {
					t.Errorf("%d %q, cookies %v", rec.Code, rec.Body, rec.Result().Cookies())
				}
			})
		})
	}
}

func TestHandlerTwiceIsOnce(t *testing.T) {
	s := newSite(t, nil)
	h := s.Handler(s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keyValue.Set(sess(t, r), "x")
	})))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if len(rec.Result().Cookies()) != 1 || s.store.count("save") != 1 {
		t.Errorf("cookies %v, %d saves", rec.Result().Cookies(), s.store.count("save"))
	}
}
