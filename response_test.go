package session_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
)

// inner is a writer that notes what reaches it, and whether the commit came
// first.
type inner struct {
	h     http.Header
	calls []string
}

func (w *inner) note(what string) {
	if len(w.h["Set-Cookie"]) == 0 {
		what += " before the commit"
	}
	w.calls = append(w.calls, what)
}

func (w *inner) Header() http.Header         { return w.h }
func (w *inner) WriteHeader(code int)        { w.note(fmt.Sprint("header ", code)) }
func (w *inner) Write(b []byte) (int, error) { w.note("write"); return len(b), nil }

type flusher struct{ *inner }

func (w flusher) Flush() { w.note("flush") }

type hijacker struct{ *inner }

func (w hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.note("hijack")
	return nil, nil, nil
}

type readerFrom struct{ *inner }

func (w readerFrom) ReadFrom(r io.Reader) (int64, error) {
	w.note("readfrom")
	return io.Copy(io.Discard, r)
}

// writersOf returns a writer for every combination of abilities.
func writersOf() map[string]func(*inner) http.ResponseWriter {
	type (
		rw = http.ResponseWriter
		f  = http.Flusher
		h  = http.Hijacker
		r  = io.ReaderFrom
	)
	return map[string]func(*inner) http.ResponseWriter{
		"nothing": func(w *inner) http.ResponseWriter { return w },
		"F": func(w *inner) http.ResponseWriter {
			return struct {
				rw
				f
			}{w, flusher{w}}
		},
		"H": func(w *inner) http.ResponseWriter {
			return struct {
				rw
				h
			}{w, hijacker{w}}
		},
		"R": func(w *inner) http.ResponseWriter {
			return struct {
				rw
				r
			}{w, readerFrom{w}}
		},
		"FH": func(w *inner) http.ResponseWriter {
			return struct {
				rw
				f
				h
			}{w, flusher{w}, hijacker{w}}
		},
		"FR": func(w *inner) http.ResponseWriter {
			return struct {
				rw
				f
				r
			}{w, flusher{w}, readerFrom{w}}
		},
		"HR": func(w *inner) http.ResponseWriter {
			return struct {
				rw
				h
				r
			}{w, hijacker{w}, readerFrom{w}}
		},
		"FHR": func(w *inner) http.ResponseWriter {
			return struct {
				rw
				f
				h
				r
			}{w, flusher{w}, hijacker{w}, readerFrom{w}}
		},
	}
}

// uses are the ways to begin a response, and the letter of the ability that
// each needs.
var uses = []struct {
	name, needs, reaches string
	use                  func(w http.ResponseWriter) error
}{
	{"WriteHeader", "", "header 200", func(w http.ResponseWriter) error { w.WriteHeader(200); return nil }},
	{"WriteHeader 101", "", "header 101", func(w http.ResponseWriter) error { w.WriteHeader(101); return nil }},
	{"Write", "", "write", func(w http.ResponseWriter) error { _, err := w.Write([]byte("x")); return err }},
	{"Write of nothing", "", "write", func(w http.ResponseWriter) error { _, err := w.Write(nil); return err }},
	{"WriteString", "", "write", func(w http.ResponseWriter) error { _, err := io.WriteString(w, "x"); return err }},
	{"Copy", "", "", func(w http.ResponseWriter) error {
		_, err := io.Copy(w, io.LimitReader(strings.NewReader("xyz"), 3))
		return err
	}},
	{"Flush", "F", "flush", func(w http.ResponseWriter) error { w.(http.Flusher).Flush(); return nil }},
	{"FlushError", "F", "flush", func(w http.ResponseWriter) error { return w.(interface{ FlushError() error }).FlushError() }},
	{"the controller's Flush", "F", "flush", func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }},
	{"Hijack", "H", "hijack", func(w http.ResponseWriter) error { _, _, err := w.(http.Hijacker).Hijack(); return err }},
	{"the controller's Hijack", "H", "hijack", func(w http.ResponseWriter) error {
		_, _, err := http.NewResponseController(w).Hijack()
		return err
	}},
	{"ReadFrom", "R", "readfrom", func(w http.ResponseWriter) error {
		_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("xyz"))
		return err
	}},
}

func TestWriterClaimsWhatTheInnerOneHas(t *testing.T) {
	for abilities, build := range writersOf() {
		t.Run(abilities, func(t *testing.T) {
			s := newSite(t, nil)
			run := func(h http.HandlerFunc) *inner {
				w := &inner{h: http.Header{}}
				s.Handler(h).ServeHTTP(build(w), httptest.NewRequest("GET", "/", nil))
				return w
			}
			run(func(w http.ResponseWriter, _ *http.Request) {
				_, f := w.(http.Flusher)
				_, h := w.(http.Hijacker)
				_, r := w.(io.ReaderFrom)
				_, p := w.(http.Pusher)
				//lint:ignore SA1019 it must not be claimed
				_, c := w.(http.CloseNotifier)
				want := [5]bool{strings.Contains(abilities, "F"), strings.Contains(abilities, "H"), strings.Contains(abilities, "R")}
				if got := [5]bool{f, h, r, p, c}; got != want {
					t.Errorf("Flusher, Hijacker, ReaderFrom, Pusher, CloseNotifier: %v, want %v", got, want)
				}
			})
			for _, u := range uses {
				if !strings.Contains(abilities, u.needs) {
					continue
				}
				w := run(func(w http.ResponseWriter, r *http.Request) {
					sess, _ := session.From(r.Context())
					keyValue.Set(sess, "x")
					if err := u.use(w); err != nil {
						t.Errorf("%s: %v", u.name, err)
					}
				})
				if len(w.calls) == 0 || strings.Contains(w.calls[0], "before the commit") || !strings.Contains(w.calls[0], u.reaches) {
					t.Errorf("%s reached the inner writer as %q", u.name, w.calls)
				}
				if len(w.h["Set-Cookie"]) != 1 {
					t.Errorf("%s: cookies %v", u.name, w.h["Set-Cookie"])
				}
			}
			// What the inner writer lacks, the controller says.
			run(func(w http.ResponseWriter, _ *http.Request) {
				c := http.NewResponseController(w)
				if !strings.Contains(abilities, "H") {
					if _, _, err := c.Hijack(); !errors.Is(err, http.ErrNotSupported) {
						t.Errorf("Hijack: %v", err)
					}
				}
				for name, err := range map[string]error{
					"SetReadDeadline": c.SetReadDeadline(time.Time{}), "SetWriteDeadline": c.SetWriteDeadline(time.Time{}),
					"EnableFullDuplex": c.EnableFullDuplex(),
				} {
					if !errors.Is(err, http.ErrNotSupported) {
						t.Errorf("%s: %v", name, err)
					}
				}
				if !strings.Contains(abilities, "F") {
					if err := c.Flush(); !errors.Is(err, http.ErrNotSupported) {
						t.Errorf("Flush: %v", err)
					}
				}
			})
		})
	}
}

func TestUnwrapNeverYieldsTheInnerWriter(t *testing.T) {
	for abilities, build := range writersOf() {
		s := newSite(t, nil)
		in := build(&inner{h: http.Header{}})
		s.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for depth := 0; ; depth++ {
				if w == in || depth > 5 {
					t.Fatalf("%s: the inner writer can be had at depth %d", abilities, depth)
				}
				u, ok := w.(interface{ Unwrap() http.ResponseWriter })
				if !ok {
					return
				}
				if w = u.Unwrap(); w == nil {
					return
				}
			}
		})).ServeHTTP(in, httptest.NewRequest("GET", "/", nil))
	}
}

// After a commit that failed the response is the ErrorHandler's, and every
// further use of the writer says so.
func TestWriterAfterAFailedCommit(t *testing.T) {
	for abilities, build := range writersOf() {
		for _, first := range uses {
			if !strings.Contains(abilities, first.needs) {
				continue
			}
			t.Run(abilities+", "+first.name, func(t *testing.T) {
				var in http.ResponseWriter
				var handled []error
				s := newSite(t, &session.Options{ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
					if w != in {
						t.Errorf("the ErrorHandler got a %T", w)
					}
					handled = append(handled, err)
					w.WriteHeader(503)
				}})
				s.store.set(away)
				noted := &inner{h: http.Header{"X-Request-Id": {"r1"}}}
				in = build(noted)
				s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					sess, _ := session.From(r.Context())
					keyValue.Set(sess, "x")
					w.Header().Set("Etag", `"stale"`)
					w.Header().Set("X-Request-Id", "changed")
					first.use(w)
					for _, u := range uses {
						if !strings.Contains(abilities, u.needs) || strings.HasPrefix(u.name, "WriteHeader") || u.name == "Flush" {
							if strings.Contains(abilities, u.needs) {
								u.use(w) // has no error to return
							}
							continue
						}
						if err := u.use(w); !errors.Is(err, errAway) {
							t.Errorf("%s then %s: %v", first.name, u.name, err)
						}
					}
				})).ServeHTTP(in, httptest.NewRequest("GET", "/", nil))
				if want := []string{"header 503 before the commit"}; !slices.Equal(noted.calls, want) {
					t.Errorf("the inner writer saw %q, want %q", noted.calls, want)
				}
				if len(handled) != 1 || !errors.Is(handled[0], errAway) {
					t.Errorf("handled %v", handled)
				}
				if noted.h.Get("Etag") != "" || noted.h.Get("X-Request-Id") != "r1" || noted.h.Get("Vary") != "Cookie" {
					t.Errorf("header %v", noted.h)
				}
			})
		}
	}
}

// A middleware inside ours hides every ability but Unwrap; the controller
// finds our writer through it, and so commits.
func TestControllerThroughAWrapperOfTheHandler(t *testing.T) {
	type hiding struct{ http.ResponseWriter }
	s := newSite(t, nil)
	w := &inner{h: http.Header{}}
	s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, _ := session.From(r.Context())
		keyValue.Set(sess, "x")
		if err := http.NewResponseController(unwrapper{hiding{w}, w}).Flush(); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(flusher{w}, httptest.NewRequest("GET", "/", nil))
	if !slices.Equal(w.calls, []string{"flush"}) {
		t.Errorf("calls %q", w.calls)
	}
}

type unwrapper struct {
	http.ResponseWriter
	next http.ResponseWriter
}

func (u unwrapper) Unwrap() http.ResponseWriter { return u.next }

// An outer middleware has no Flush, but Unwrap: what the server can do is found
// through both.
func TestControllerThroughAWrapperOfTheServer(t *testing.T) {
	s := newSite(t, nil)
	w := &inner{h: http.Header{}}
	s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, _ := session.From(r.Context())
		keyValue.Set(sess, "x")
		if _, ok := w.(http.Flusher); ok {
			t.Error("the wrapper claims a Flush that the outer one does not show")
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(unwrapper{w, flusher{w}}, httptest.NewRequest("GET", "/", nil))
	if !slices.Equal(w.calls, []string{"flush"}) {
		t.Errorf("calls %q", w.calls)
	}
}
