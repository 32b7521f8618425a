package hdfsstore

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// A writer makes files.
//
// A write that a datanode failed is tried again with a new block, for the
// client cannot tell the namenode which datanode to leave out. The namenode
// chooses by chance, and after a while none that does not answer
// (dfs.namenode.avoid.write.stale.datanode).
type writer struct {
	replication int // 0: the namenode's default
	defaults    atomic.Pointer[hdfs.ServerDefaults]
}

const (
	writeTries = 12
	firstPause = 2 * time.Millisecond
	lastPause  = 100 * time.Millisecond
)

// write makes a file whose name nobody else uses.
func (w *writer) write(ctx context.Context, p *pool, path string, data []byte) error {
	pause := firstPause
	for try := 1; ; try++ {
		err := p.do(ctx, func(c *hdfs.Client) error {
			if try > 1 { // what the last try left
				if err := c.RemoveAll(path); err != nil {
					return err
				}
			}
			return w.once(ctx, c, path, data)
		})
		if err == nil || !worthAnother(err) || try == writeTries || wait(ctx, pause/2+rand.N(pause)) != nil {
			return over(ctx, err)
		}
		pause = min(2*pause, lastPause)
	}
}

// worthAnother tells whether a write failed that may not fail again: a namenode
// was there, and has not refused it.
func worthAnother(err error) bool {
	var remote *remoteError
	var connect *connectError
	refused := errors.As(err, &remote) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrPermission)
	return !refused && !errors.As(err, &connect)
}

func (w *writer) once(ctx context.Context, c *hdfs.Client, path string, data []byte) error {
	d := w.defaults.Load()
	if d == nil {
		got, err := c.ServerDefaults()
		if err != nil {
			return err
		}
		if w.replication > 0 {
			got.Replication = w.replication
		}
		d = &got
		w.defaults.Store(d)
	}
	f, err := c.CreateFile(path, d.Replication, d.BlockSize, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	closing := f.Close() // whatever happened: it ends the client's goroutines
	if err != nil {
		return err
	}
	for pause := firstPause; hdfs.IsErrReplicating(closing); pause = min(2*pause, lastPause) {
		// The datanodes have it, and have not told the namenode yet.
		if wait(ctx, pause) != nil {
			return closing
		}
		closing = f.Close()
	}
	return closing
}

// wait waits for a while, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
