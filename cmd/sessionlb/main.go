// Command sessionlb balances over the nodes of an application and pins each
// user to one of them: package sticky as a program.
//
//	sessionlb -listen :8080 -admin 127.0.0.1:9090 \
//		-node a=http://10.0.0.1:8080 -node b=http://10.0.0.2:8080
//
// # Configuration
//
// Every flag may stand in the file that -config names, under "settings" and
// with the flag's name; flags on the command line win. The file's nodes and
// rebalance take effect when the file changes, the settings at the next start:
//
//	{
//	  "settings": {"listen": ":443", "tls-cert": "tls.crt", "tls-key": "tls.key",
//	               "admin": "127.0.0.1:9090", "health": "/healthz", "keys": "file:affinity.keys"},
//	  "nodes": [
//	    {"id": "a", "url": "http://10.0.0.1:8080"},
//	    {"id": "b", "url": "http://10.0.0.2:8080", "weight": 2, "drain": "keep 10m"}
//	  ],
//	  "rebalance": 5
//	}
//
// A file that cannot be read or is wrong changes nothing and is reported in the
// log. A certificate that changes is used for the next connection.
//
// With -direct the nodes are reached by [sticky.DirectTransport], which spends
// about a fifth less CPU on a request than http.Transport. The other flags mean
// the same.
//
// # The admin address
//
// It is apart from the users' and serves
//
//	GET  /-/status   the nodes, as HTML, or as JSON if Accept asks for it
//	GET  /-/metrics  Prometheus' text format
//	GET  /-/health   200, and 503 once the program is stopping
//	POST /-/drain    id, and mode: "move", or "keep 10m"
//	POST /-/resume   id
//
// The two that change something exist only where the address is a loopback one,
// for there is no sign-in; a page of another site cannot use them, and a name
// that is not the admin address's own is refused, for it may have been pointed
// here.
//
// # Stopping
//
// SIGTERM and SIGINT stop it: it takes no new connections, ends the requests in
// flight, closes upgraded connections one by one, and exits with 0; after -grace
// it cuts what is left and exits with 1. A second signal cuts at once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // the second signal ends the process
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. Its exit status: 0 stopped in good order, 1 something
// failed, 2 the configuration is wrong.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := readSettings(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "sessionlb:", err)
		return 2
	}
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: s.logLevel}))
	b, err := newBalancer(ctx, s, logger, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "sessionlb:", err)
		return 2
	}
	if err := b.serve(ctx); err != nil {
		logger.Error("stopped", "error", err)
		return 1
	}
	logger.Info("stopped")
	return 0
}
