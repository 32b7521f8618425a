package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session"
)

const (
	sqliteBusy    = 5 * time.Second
	sqliteReaders = 4
)

// openSQLite takes sqlite:file.db, sqlite:/path/file.db and
// sqlite:///path/file.db.
func openSQLite(ctx context.Context, u *url.URL) (session.Store, error) {
	p := session.NewParams(u)
	var c config
	c.read(p, "true")
	busy := p.Duration("busy_timeout", sqliteBusy)
	synchronous := p.String("synchronous", "full")
	if err := checkParams(p, u); err != nil {
		return nil, err
	}
	if synchronous != "full" && synchronous != "normal" {
		return nil, configError("sqlite: parameter synchronous is %q; it takes full, or normal if a power cut may take the last moment's changes", synchronous)
	}
	path, err := sqlitePath(u)
	if err != nil {
		return nil, err
	}
	if err := makeFile(path, c.migrate); err != nil {
		return nil, err
	}
	dsn := sqliteDSN(path, busy, synchronous)
	// SQLite has one writer at a time: those of this process queue up here, where
	// their contexts hold, and only processes wait for the file.
	write, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, configError("sqlite: %w", err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, errors.Join(configError("sqlite: %w", err), write.Close())
	}
	read.SetMaxOpenConns(cmp.Or(c.poolSize, sqliteReaders))
	read.SetMaxIdleConns(cmp.Or(c.poolSize, sqliteReaders))
	return c.start(ctx, write, read, SQLite)
}

func sqlitePath(u *url.URL) (string, error) {
	const forms = "write sqlite:sessions.db or sqlite:///var/lib/app/sessions.db"
	path := u.Path
	if u.Opaque != "" {
		var err error
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return "", configError("sqlite: the path cannot be read; escape special characters (%% is %%25, ? is %%3F)")
		}
	}
	switch {
	case u.Host != "" || u.User != nil:
		return "", configError("sqlite: the URL names a host; %s", forms)
	case path == "" || strings.HasSuffix(path, "/"):
		return "", configError("sqlite: the URL names no file; %s", forms)
	case strings.HasPrefix(path, ":memory:") || strings.HasPrefix(path, "file:"):
		// Every connection would have a database of its own.
		return "", configError("sqlite: the URL names no file; %s, and memory: for sessions in memory", forms)
	}
	return path, nil
}

// makeFile makes the database's file, for its owner alone; SQLite gives the
// files beside it the same mode. An empty file is an empty database.
func makeFile(path string, create bool) error {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist) && create:
		return configError("sqlite: the folder is missing; make it, for this program alone: %w", err)
	case errors.Is(err, fs.ErrNotExist):
		return configError("sqlite: the file is missing; leave migrate=false away, and it is made: %w", err)
	default:
		return configError("sqlite: the file cannot be opened for reading and writing; let this program own it and its folder: %w", err)
	}
}

func sqliteDSN(path string, busy time.Duration, synchronous string) string {
	if !filepath.IsAbs(path) {
		path = "./" + path
	}
	q := url.Values{"_pragma": {
		// First, for the others may have to wait for another process.
		"busy_timeout(" + strconv.FormatInt(busy.Milliseconds(), 10) + ")",
		"journal_mode(WAL)",
		"synchronous(" + synchronous + ")",
	}}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}
