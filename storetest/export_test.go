package storetest

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Try runs one promise on a backend and tells how it ended, so that the suite
// itself can be tested: a store with a flaw has to fail.
func Try(t *testing.T, name string, fresh func() Backend) (verdict, log string) {
	t.Helper()
	b := fresh()
	for _, s := range []*suite{storePromises, httpPromises} {
		for _, p := range s.promises(b.ClientSide) {
			if p.name == name {
				r := &recorder{TB: t}
				r.run(func() { p.test(newPlace(r, b, fresh)) })
				return r.verdict, strings.Join(r.log, "\n")
			}
		}
	}
	t.Fatalf("there is no promise %q", name)
	return "", ""
}

// Names returns all promises of a kind of store.
func Names(clientSide bool) (names []string) {
	for _, s := range []*suite{storePromises, httpPromises} {
		for _, p := range s.promises(clientSide) {
			names = append(names, p.name)
		}
	}
	return names
}

// CheckSkip is the test that every name in Skip is a promise.
func CheckSkip(b Backend) error { return checkSkip(b) }

// recorder is a testing.TB that fails alone.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	verdict  string
	log      []string
	cleanups []func()
}

func (r *recorder) run(f func()) {
	r.verdict = "pass"
	for next := f; next != nil; next = r.cleanup() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					r.Errorf("panic: %v", p)
				}
			}()
			next()
		}()
		<-done
	}
}

func (r *recorder) cleanup() func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cleanups) == 0 {
		return nil
	}
	last := r.cleanups[len(r.cleanups)-1]
	r.cleanups = r.cleanups[:len(r.cleanups)-1]
	return last
}

func (r *recorder) end(verdict, log string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.verdict != "fail" {
		r.verdict = verdict
	}
	r.log = append(r.log, log)
}

func (r *recorder) Helper()                   {}
func (r *recorder) Log(args ...any)           {}
func (r *recorder) Logf(string, ...any)       {}
func (r *recorder) Error(args ...any)         { r.end("fail", fmt.Sprint(args...)) }
func (r *recorder) Errorf(f string, a ...any) { r.end("fail", fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(args ...any)         { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.Errorf(f, a...); runtime.Goexit() }
func (r *recorder) Skip(args ...any)          { r.end("skip", fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Skipf(f string, a ...any)  { r.end("skip", fmt.Sprintf(f, a...)); runtime.Goexit() }
func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}
