package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/distsession/session"
)

// Make is what Create does in every Protocol: it makes the directory of a record
// with one file in it, under the name file, which may lie in a folder, and of
// several that do so at once one wins. After an error ours tells whether the
// record that stands there is this one all the same: an answer was lost.
func Make(ctx context.Context, tree Tree, dir, file string, text []byte, ours func(ctx context.Context) bool) error {
	made := Unfinished()
	folder := path.Join(made, path.Dir(file))
	err := tree.Mkdir(ctx, made)
	if err == nil && folder != made {
		err = tree.Mkdir(ctx, folder)
	}
	if err == nil {
		err = tree.WriteFile(ctx, made+"/"+file, text)
	}
	if err == nil {
		err = tree.Sync(ctx, folder)
	}
	if err == nil && folder != made {
		err = tree.Sync(ctx, made)
	}
	if err != nil {
		Abandon(ctx, tree, made)
		return Unmade(err)
	}
	if err = tree.Rename(ctx, made, dir); err != nil && !ours(ctx) {
		exist := errors.Is(err, fs.ErrExist)
		if exist || errors.Is(err, fs.ErrNotExist) {
			Abandon(ctx, tree, made)
		} // else it may still happen, and must not move what is half removed
		if exist {
			return session.ErrConflict
		}
		return err
	}
	return tree.Sync(ctx, path.Dir(dir))
}

// Unmade says that what is missing is NewDir, and not a record.
func Unmade(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("what was being made in the folder %q has gone: %s", NewDir, err.Error())
	}
	return err
}

// Abandon removes what will not be finished, also when ctx has ended. What it
// leaves the sweep finds.
func Abandon(ctx context.Context, tree Tree, path string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	_ = tree.RemoveAll(ctx, path)
}

const abandonTimeout = 200 * time.Millisecond
