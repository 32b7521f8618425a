package filestore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore/treetest"
	"github.com/distsession/session/internal/ledger"
)

// What a process that TestKilledWriter starts finds in its environment.
const (
	envCrashStore = "SESSION_FILESTORE_CRASH"
	envCrashToken = "SESSION_FILESTORE_CRASH_TOKEN"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(envCrashStore); url != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(url, os.Getenv(envCrashToken)))
		os.Exit(1)
	}
	ledger.Main(m)
}

const crashWriters = 3

// writeUntilKilled adds to the number in a session, and says so on the standard
// output once an addition was acknowledged.
func writeUntilKilled(url, token string) error {
	ctx := context.Background()
	s, err := session.Open(ctx, url)
	if err != nil {
		return err
	}
	errs := make(chan error)
	for range crashWriters {
		go func() {
			for {
				if err := touchAndAdd(ctx, s, token); err != nil {
					errs <- err
					return
				}
				fmt.Println("added")
			}
		}()
	}
	return <-errs
}

// touchAndAdd is what a request does at most.
func touchAndAdd(ctx context.Context, s session.Store, token string) error {
	rec, err := s.Load(ctx, token)
	if err != nil {
		return err
	}
	if err := s.(session.Toucher).Touch(ctx, rec.ID, time.Now(), rec.Expires.Add(time.Millisecond)); err != nil {
		return err
	}
	return addOne(ctx, s, token)
}

// addOne adds one by compare-and-set, however often it takes.
func addOne(ctx context.Context, s session.Store, token string) error {
	for try := 1; ; try++ {
		rec, err := s.Load(ctx, token)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(rec.Data))
		if err != nil {
			return err
		}
		rec.Data = []byte(strconv.Itoa(n + 1))
		if _, err = s.Save(ctx, rec); !errors.Is(err, session.ErrConflict) {
			return err
		}
		time.Sleep(rand.N(time.Duration(min(try, 20)) * 2 * time.Millisecond)) // be fair to the others
	}
}

// A process that is killed at any moment loses nothing that it acknowledged,
// leaves no torn session, and holds nobody up.
func TestKilledWriter(t *testing.T) {
	dir := folder(t)
	s := create(t, dir, nil)
	rec, token := treetest.Record("ann")
	rec.Data = []byte("0")
	if _, err := s.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for round := range 12 {
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Env = append(os.Environ(), envCrashStore+"=file://"+dir, envCrashToken+"="+token)
		out, err := cmd.StdoutPipe()
		must(t, err)
		var said strings.Builder
		cmd.Stderr = &said
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		acked := 0
		var once sync.Once
		kill := func() { once.Do(func() { cmd.Process.Kill() }) }
		after := 1 + rand.IntN(20)
		for lines.Scan() {
			if acked++; acked == after {
				time.AfterFunc(rand.N(3*time.Millisecond), kill)
			}
		}
		kill()
		_ = cmd.Wait()
		if acked < after {
			t.Fatalf("round %d: the writer ended by itself after %d additions: %s", round, acked, said.String())
		}
		now, err := s.Load(t.Context(), token)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		n, err := strconv.Atoi(string(now.Data))
		if err != nil || n < total+acked || n > total+acked+crashWriters {
			t.Fatalf("round %d: %q after %d; %d were acknowledged, %v", round, now.Data, total, acked, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), ledger.Patience)
		if err := addOne(ctx, s, token); err != nil {
			t.Fatalf("round %d: the next addition: %v", round, err)
		}
		cancel()
		total = n + 1
	}
	t.Logf("%d additions", total)
}

func TestTwoProcesses(t *testing.T) {
	ledger.TwoProcesses(t, "file://"+folder(t), 4, 200)
}
