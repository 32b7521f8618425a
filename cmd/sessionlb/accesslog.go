package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/distsession/session/sticky"
)

// accessLog writes a line for each request when it has ended. Neither cookies nor
// the Authorization field are in it; the query is, as in every such log.
func accessLog(next http.Handler, to io.Writer, format string) http.Handler {
	write := jsonLines(to)
	if format == "combined" {
		write = combinedLines(to)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := &entry{begin: time.Now()}
		rw := &recorder{ResponseWriter: w}
		ended := false
		defer func() {
			e.status, e.bytes, e.aborted = rw.status, rw.bytes, !ended
			write(r, e)
		}()
		next.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), entryKey{}, e)))
		ended = true
	})
}

type entry struct {
	begin   time.Time
	status  int
	bytes   int64
	aborted bool // the connection was broken
	outcome sticky.Outcome
}

type entryKey struct{}

// observe is the proxy's Observer.
func observe(r *http.Request, o sticky.Outcome) {
	if e, ok := r.Context().Value(entryKey{}).(*entry); ok {
		e.outcome = o
	}
}

func jsonLines(to io.Writer) func(*http.Request, *entry) {
	log := slog.New(slog.NewJSONHandler(to, nil))
	return func(r *http.Request, e *entry) {
		attrs := []slog.Attr{
			slog.String("client", clientOf(r, e)), slog.String("method", r.Method), slog.String("host", r.Host),
			slog.String("uri", r.RequestURI), slog.String("proto", r.Proto), slog.Int("status", e.status), slog.Int64("bytes", e.bytes),
			slog.Float64("ms", float64(time.Since(e.begin).Microseconds())/1000), slog.String("node", e.outcome.Node), slog.Int("attempts", e.outcome.Attempts),
			slog.String("referer", r.Referer()), slog.String("agent", r.UserAgent()),
		}
		if e.outcome.Moved {
			attrs = append(attrs, slog.Bool("moved", true))
		}
		if e.aborted {
			attrs = append(attrs, slog.Bool("aborted", true))
		}
		if err := e.outcome.Err; err != nil {
			attrs = append(attrs, slog.String("error", err.Error()))
		}
		log.LogAttrs(context.Background(), slog.LevelInfo, "request", attrs...)
	}
}

// combinedLines is Apache's and nginx's format, with the node at its end.
func combinedLines(to io.Writer) func(*http.Request, *entry) {
	var mu sync.Mutex
	return func(r *http.Request, e *entry) {
		line := fmt.Appendf(nil, "%s - - [%s] %s %d %d %s %s %s\n", clientOf(r, e), e.begin.Format("02/Jan/2006:15:04:05 -0700"),
			quote(r.Method+" "+r.RequestURI+" "+r.Proto), e.status, e.bytes, quote(r.Referer()), quote(r.UserAgent()), quote(e.outcome.Node))
		mu.Lock()
		defer mu.Unlock()
		to.Write(line)
	}
}

// quote makes one field of what a client wrote: no line breaks, no quotes.
func quote(s string) string {
	if s == "" {
		return `"-"`
	}
	return strconv.QuoteToASCII(s)
}

func clientOf(r *http.Request, e *entry) string {
	if a := e.outcome.Client; a.IsValid() {
		return a.String()
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(code int) {
	if w.status == 0 && code >= 200 {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Hijack is how an upgrade is answered.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buf, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.status = http.StatusSwitchingProtocols
	}
	return c, buf, err
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
