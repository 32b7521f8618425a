package filestore_test

import (
	"os"
	"testing"
)

// own closes a folder to everybody else.
func own(t testing.TB, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}
