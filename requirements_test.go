package session_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// requirement is one line of a standard, and what proves it: the matrix in
// testdata/requirements.
type requirement struct {
	Standard, ID string
	Level        string // L1 to L3, or SHALL and SHOULD
	Text         string

	By    string   // "library", "application" or "deployment": who has to meet it
	Why   string   // how it is met, or why the library cannot meet it by itself
	Tests []string // "TestName", "TestName/subtest" or "storetest/promise"
}

// vectorFolders are the tests whose subtests are vectors.
var vectorFolders = map[string]string{
	"TestHostileRequests": "http", "TestHostileConfigurations": "config", "TestHostileRecords": "record",
	"TestHostileCookie": "cookie", "TestHostileJWT": "jwt",
}

// A matrix that names a test which is not there is worse than none.
func TestRequirementsNameTheirTests(t *testing.T) {
	all := vectors[requirement](t, "requirements")
	distinctNames(t, all, func(r requirement) (string, string) { return r.Standard + " " + r.ID, r.Why })
	tests, promises := testsOf(t)
	for _, r := range all {
		t.Run(r.Standard+" "+r.ID, func(t *testing.T) {
			if r.Text == "" || r.Level == "" {
				t.Error("text or level is missing")
			}
			switch r.By {
			case "library":
				if len(r.Tests) == 0 {
					t.Error("no test")
				}
			case "application", "deployment":
			default:
				t.Errorf("by %q", r.By)
			}
			for _, name := range r.Tests {
				fn, sub, _ := strings.Cut(name, "/")
				known, ok := tests[fn]
				if fn == "storetest" {
					known, ok = promises, true
				}
				if !ok || sub != "" && !slices.Contains(known, sub) {
					t.Errorf("there is no %s", name)
				}
			}
		})
	}
}

// testsOf reads the package's tests: for each function, the texts of its file,
// among which the names of its subtests are, and the names of its vectors; and
// the texts of package storetest.
func testsOf(t *testing.T) (tests map[string][]string, promises []string) {
	t.Helper()
	tests = map[string][]string{}
	files, err := filepath.Glob("*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	for _, file := range files {
		functions, texts := textsOf(t, file)
		for _, f := range functions {
			if strings.HasPrefix(f, "Test") || strings.HasPrefix(f, "Fuzz") {
				tests[f] = texts
			}
		}
	}
	for fn, folder := range vectorFolders {
		if tests[fn] == nil {
			continue
		}
		paths, err := filepath.Glob(filepath.Join("testdata", "hostile", folder, "*.json"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no vectors for %s: %v", fn, err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var named []struct{ Name string }
			if err := json.Unmarshal(b, &named); err != nil {
				t.Fatal(err)
			}
			for _, v := range named {
				tests[fn] = append(tests[fn], v.Name, strings.TrimSuffix(filepath.Base(path), ".json")+"/"+v.Name)
			}
		}
	}
	files, err = filepath.Glob(filepath.Join("storetest", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no storetest: %v", err)
	}
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			_, texts := textsOf(t, file)
			promises = append(promises, texts...)
		}
	}
	return tests, promises
}

// textsOf returns the names of a file's functions and its string literals.
func textsOf(t *testing.T, file string) (functions, texts []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil {
				functions = append(functions, n.Name.Name)
			}
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				if s, err := strconv.Unquote(n.Value); err == nil {
					texts = append(texts, s)
				}
			}
		}
		return true
	})
	return functions, texts
}
