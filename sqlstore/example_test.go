package sqlstore_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/distsession/session"
	"github.com/distsession/session/sqlstore"
)

// Sessions in a file of this process, cleaned in the background.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	store, err := session.Open(ctx, "sqlite:"+filepath.Join(dir, "sessions.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close(store)
	go session.RunCleaner(ctx, store, nil)

	m, err := session.New(store, nil)
	if err != nil {
		log.Fatal(err)
	}
	_ = m // wraps the application's handler: m.Handler(mux)
	fmt.Println(session.DeleteUser(ctx, store, "nobody", ""))
	// Output: 0 <nil>
}

// The SQL for those who run their own migrations.
func ExampleSchema() {
	for line := range strings.Lines(sqlstore.Schema(sqlstore.PostgreSQL, "app.sessions")) {
		if strings.HasPrefix(line, "CREATE") {
			fmt.Print(line)
		}
	}
	// Output:
	// CREATE TABLE IF NOT EXISTS app.sessions_schema (
	// CREATE TABLE IF NOT EXISTS app.sessions (
	// CREATE INDEX IF NOT EXISTS sessions_by_due ON app.sessions (due);
	// CREATE INDEX IF NOT EXISTS sessions_by_user ON app.sessions (user_name, id) WHERE user_name IS NOT NULL;
	// CREATE TABLE IF NOT EXISTS app.sessions_lease (
}
