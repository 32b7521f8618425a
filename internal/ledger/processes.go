package ledger

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
)

// What a process that TwoProcesses starts finds in its environment.
const (
	envStore = "SESSION_LEDGER_STORE"
	envToken = "SESSION_LEDGER_TOKEN"
	envCount = "SESSION_LEDGER_COUNT" // workers, a comma, additions of each
)

// Main is the TestMain of a package that calls TwoProcesses: in a process that
// TwoProcesses has started it counts, in any other it runs the tests.
func Main(m *testing.M) {
	if os.Getenv(envStore) == "" {
		os.Exit(m.Run())
	}
	if err := countHere(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TwoProcesses lets two processes of their own open the store at rawURL and
// add to the number in one session, and checks that no addition is lost: 2 ×
// workers × additions.
func TwoProcesses(t *testing.T, rawURL string, workers, additions int) {
	t.Helper()
	store, err := session.Open(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(store)
	_, token := create(t, store, "ann")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	var wg sync.WaitGroup
	for range 2 {
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Env = append(os.Environ(), envStore+"="+rawURL, envToken+"="+token, fmt.Sprintf("%s=%d,%d", envCount, workers, additions))
		wg.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("a process: %v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	_, n, err := count(t.Context(), store, token)
	if want := 2 * workers * additions; n != want || err != nil {
		t.Fatalf("%d, %v; want %d", n, err, want)
	}
	t.Logf("2 processes × %d workers × %d additions: %d in %v", workers, additions, n, time.Since(at).Round(time.Millisecond))
}

func countHere() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	store, err := session.Open(ctx, os.Getenv(envStore))
	if err != nil {
		return err
	}
	defer session.Close(store)
	w, a, _ := strings.Cut(os.Getenv(envCount), ",")
	workers, err := strconv.Atoi(w)
	if err != nil {
		return err
	}
	additions, err := strconv.Atoi(a)
	if err != nil {
		return err
	}
	errs := make(chan error, workers)
	for range workers {
		go func() {
			for range additions {
				if err := addOne(ctx, store, os.Getenv(envToken)); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}
