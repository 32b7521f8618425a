package session_test

import (
	"os"
	"strings"
	"testing"
)

// The README's program is examples/hello, which compiles.
func TestReadmeProgramIsTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("examples/hello/main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```go\n")
	shown, _, _ := strings.Cut(rest, "```")
	_, want, _ := strings.Cut(string(program), "// Hello is the program of the README.\n")
	if shown != want {
		t.Error("the README's first program differs from examples/hello/main.go; copy one to the other")
	}
	for _, command := range []string{"    go run ./examples/quickstart\n", "    go test work\n"} {
		if !strings.Contains(string(readme), command) {
			t.Errorf("the README lacks its command %q", strings.TrimSpace(command))
		}
	}
}
