package failures_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// raced tells that this is built with the race detector.
var raced bool

// nodeCommand makes this program a node instead of the tests.
const nodeCommand = "session-node"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == nodeCommand {
		if err := runNode(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// What takes its time here is waiting for elections.
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		if err := p.Value.Set("4"); err != nil {
			panic(err)
		}
	}
	if raced {
		fmt.Println("the race detector slows the nodes down until they miss their elections; run without -race, as .ci/run does too")
		os.Exit(0)
	}
	code := m.Run()
	if testing.Verbose() {
		table.print()
	}
	os.Exit(code)
}

// rows are the lines of the table, as the tests have counted them.
type rows struct {
	mu    sync.Mutex
	lines []string
}

var table rows

func (r *rows) add(cells ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, "| "+strings.Join(cells, " | ")+" |")
}

func (r *rows) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == 0 {
		return
	}
	fmt.Println("| what happens | changes acknowledged | refused | in flight on the node that stops | longest wait | reads | oldest answer | signed out everywhere within | ready again after | lost | revived | too old |")
	fmt.Println("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	for _, line := range r.lines {
		fmt.Println(line)
	}
}
