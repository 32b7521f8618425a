package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/distsession/session/natsstore"
)

// TestMain is the program too: the nodes are this binary.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-node") {
		os.Exit(run())
	}
	// nats-server's own data race at the first writes of a stream is not what is
	// tested here, and must not change how a node ends: see natsstore's tests.
	os.Setenv("GORACE", "exitcode=0")
	os.Exit(m.Run())
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		why, args, problem string
	}{
		{"nothing said", "", ""},
		{"five", "-nodes 5 -consistency strong", ""},
		{"two nodes are no cluster", "-nodes 2", "3 or 5"},
		{"no such consistency", "-consistency eventual", "local or strong"},
		{"no flag", "5", "not a flag"},
	} {
		c, err := parse(strings.Fields(tt.args), io.Discard)
		if tt.problem == "" && err != nil || tt.problem != "" && (err == nil || !strings.Contains(err.Error(), tt.problem)) {
			t.Errorf("%s: %v", tt.why, err)
		}
		if tt.why == "nothing said" && (c.nodes != 3 || c.consistency != natsstore.Local || c.addr != "localhost:8080") {
			t.Errorf("the defaults are %+v", c)
		}
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

// Whoever reaches the page can kill the nodes.
func TestNotForOthers(t *testing.T) {
	err := runCluster(t.Context(), config{addr: "0.0.0.0:0", nodes: 3, dir: t.TempDir()}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("listening to all the world: %v", err)
	}
}

func TestAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = runCluster(context.Background(), config{addr: l.Addr().String(), nodes: 3, dir: t.TempDir()}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "-addr") {
		t.Errorf("the address is taken: %v", err)
	}
}
