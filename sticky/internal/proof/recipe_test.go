package proof

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the page writes for the addresses of the balancer and of the nodes, and
// for the secret in the environment.
const (
	pageListens = "10.0.0.10:80"
	pageNode    = "10.0.0.%d:8080"
	pageNodes   = 3
)

var pageSecret = []string{"${AFF_SECRET}", "{$AFF_SECRET}"}

// recipe returns the configuration of this name for three nodes, to be filled in
// with the balancer's own address. On the page, a comment with its name stands
// before it.
func recipe(t testing.TB, name string, addrs []string) func(addr string) string {
	t.Helper()
	text, err := findRecipe(balancersPage(t), name)
	if err != nil {
		t.Fatal(err)
	}
	if len(addrs) != pageNodes {
		t.Fatalf("%d nodes; the page has %d", len(addrs), pageNodes)
	}
	var fill []string
	for i, addr := range addrs {
		fill = append(fill, fmt.Sprintf(pageNode, i+1), addr)
	}
	for _, s := range pageSecret {
		fill = append(fill, s, "the-tests-secret")
	}
	return func(addr string) string {
		return strings.NewReplacer(append([]string{pageListens, addr}, fill...)...).Replace(text)
	}
}

// balancersPage returns docs/balancers.md of the module that the test is in.
func balancersPage(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd() // go test runs a test in its package's directory
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "docs", "balancers.md"))
		switch {
		case err == nil:
			return string(text)
		case dir == filepath.Dir(dir):
			t.Fatal("docs/balancers.md is in no directory above this one")
		}
	}
}

// findRecipe returns the block of code that follows the comment with its name.
func findRecipe(page, name string) (string, error) {
	mark := "<!-- recipe: " + name + " -->\n```"
	_, block, ok := strings.Cut(page, mark)
	if !ok || strings.Contains(block, mark) {
		return "", fmt.Errorf("docs/balancers.md has not one recipe %q", name)
	}
	_, block, _ = strings.Cut(block, "\n") // the name of the language
	block, _, ok = strings.Cut(block, "\n```")
	if !ok {
		return "", fmt.Errorf("docs/balancers.md: the recipe %q has no end", name)
	}
	for _, want := range []string{pageListens, fmt.Sprintf(pageNode, 1), fmt.Sprintf(pageNode, pageNodes)} {
		if !strings.Contains(block, want) {
			return "", fmt.Errorf("docs/balancers.md: the recipe %q lacks the address %s", name, want)
		}
	}
	return block + "\n", nil
}
