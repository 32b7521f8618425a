package hdfsstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session/hdfsstore"
	"github.com/distsession/session/internal/servers"
)

func TestQuick(t *testing.T) {
	h := servers.HDFS(t, 3)
	a := hdfsstore.NewTree([]string{h.Namenode.Addr}, "hdfs", "/x", 8, time.Second)
	defer a.Close()
	b := hdfsstore.NewTree([]string{h.Namenode.Addr}, "hdfs", "/x", 8, time.Second)
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := a.Mkdir(ctx, "."); err != nil {
		t.Fatal(err)
	}
	if err := a.Write(ctx, "f", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	lap := func(what string, n int) { t.Logf("%s: %v", what, time.Since(at)/time.Duration(n)); at = time.Now() }
	for i := range 50 {
		if err := a.Write(ctx, fmt.Sprint("g", i), []byte(strings.Repeat("hello", 100))); err != nil {
			t.Fatal(err)
		}
	}
	lap("write", 50)
	for i := range 50 {
		if b, err := b.Read(ctx, fmt.Sprint("g", i)); err != nil || len(b) != 500 {
			t.Fatal(err)
		}
	}
	lap("read", 50)
	for range 50 {
		if _, err := a.List(ctx, "."); err != nil {
			t.Fatal(err)
		}
	}
	lap("list", 50)
	for i := range 50 {
		if err := a.Rename(ctx, fmt.Sprint("g", i), fmt.Sprint("h", i)); err != nil {
			t.Fatal(err)
		}
	}
	lap("rename", 50)
	for i := range 50 {
		if err := a.RemoveAll(ctx, fmt.Sprint("h", i)); err != nil {
			t.Fatal(err)
		}
	}
	lap("remove", 50)
	for r := range 20 {
		if err := a.Mkdir(ctx, fmt.Sprint("d", r)); err != nil {
			t.Fatal(err)
		}
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				tr := a
				if i%2 == 1 {
					tr = b
				}
				err := tr.Rename(ctx, fmt.Sprint("d", r), fmt.Sprint("e", r, "-", i))
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Error(won.Load())
		}
	}
	lap("race", 20)
	_, err := a.Read(ctx, "nothing")
	t.Log(err, errors.Is(err, fs.ErrNotExist))
	_, err = a.List(ctx, "nothing")
	t.Log(err, errors.Is(err, fs.ErrNotExist))
	err = a.Write(ctx, "nothing/x", []byte("x"))
	t.Log(err, errors.Is(err, fs.ErrNotExist))
	err = a.Write(ctx, "f", []byte("x"))
	t.Log(err, errors.Is(err, fs.ErrExist))
	a.Mkdir(ctx, "full")
	a.Write(ctx, "full/x", []byte("x"))
	a.Mkdir(ctx, "full2")
	a.Write(ctx, "full2/x", []byte("x"))
	err = a.Rename(ctx, "full", "full2")
	t.Log(err, errors.Is(err, fs.ErrExist))
	h.Datanodes[0].Kill()
	at = time.Now()
	for i := range 20 {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		s := time.Now()
		if err := a.Write(ctx, fmt.Sprint("i", i), []byte("x")); err != nil {
			t.Log(i, err)
		}
		t.Log(time.Since(s))
		cancel()
	}
	lap("dead datanode", 20)
	h.Restart(t, h.Datanodes[0])
	h.Datanodes[0].Pause()
	at = time.Now()
	for i := range 20 {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		s := time.Now()
		if err := a.Write(ctx, fmt.Sprint("j", i), []byte("x")); err != nil {
			t.Log(i, err)
		}
		t.Log(time.Since(s))
		cancel()
	}
	h.Datanodes[0].Resume()
	lap("frozen datanode", 20)
	h.WaitReady(t)
	h.Namenode.Pause()
	for range 10 {
		ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		s := time.Now()
		_, err := a.List(ctx, ".")
		t.Log(err, time.Since(s))
		cancel()
	}
	h.Namenode.Resume()
	for range 10 {
		ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		s := time.Now()
		_, err := a.List(ctx, ".")
		t.Log(err, time.Since(s))
		cancel()
	}
}
