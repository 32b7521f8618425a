package filestore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/distsession/session/internal/dirstore"
)

// identity tells a folder of sessions from any other of its name: the one that
// shows when nothing is mounted over it.
type identity struct {
	dir string
	id  string
}

const (
	idFile  = "id"
	idLimit = 100
)

// learn reads the folder's identity, or gives it one.
func (i *identity) learn(ctx context.Context, tree linkTree) error {
	// Linked, so that nobody reads half of it.
	temp := dirstore.Unfinished()
	defer dirstore.Abandon(ctx, tree, temp)
	if _, err := tree.ModTime(ctx, idFile); errors.Is(err, fs.ErrNotExist) {
		err := tree.WriteFile(ctx, temp, []byte(rand.Text()))
		if err == nil {
			err = tree.Link(ctx, temp, idFile)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("session: filestore: identity: %w", err)
		}
		if err := tree.Sync(ctx, "."); err != nil {
			return fmt.Errorf("session: filestore: identity: %w", err)
		}
	}
	id, err := tree.ReadFile(ctx, idFile, idLimit)
	if err != nil {
		return fmt.Errorf("session: filestore: identity: %w", err)
	}
	i.id = string(id)
	return nil
}

// reopen opens the folder again after a new mount.
func (i *identity) reopen() (*os.Root, error) {
	root, err := openFolder(i.dir)
	if err != nil {
		return nil, err
	}
	id, err := root.ReadFile(idFile)
	if err == nil && (i.id == "" || string(id) != i.id) {
		err = fmt.Errorf("session: filestore: %s is another folder than it was", i.dir)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}
