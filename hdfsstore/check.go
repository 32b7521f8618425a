package hdfsstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/colinmarc/hdfs/v2"
	"github.com/distsession/session/internal/dirstore"
)

// Check makes the store's directory if it is missing, and tries out there what
// the store rests on. ErrConfig if sessions must not be kept there, with the
// mend; any other error means that HDFS is not ready. Open runs it; after New
// it is yours to run, before the first session is saved.
func (s *Store) Check(ctx context.Context) error {
	for _, step := range []func(context.Context) error{s.checkRoot, s.Prepare, s.checkRename, s.checkData} {
		if err := step(ctx); err != nil {
			return s.explain(err)
		}
	}
	return nil
}

// explain adds the mend to what is wrong with the place.
func (s *Store) explain(err error) error {
	root, user := s.tree.root, s.tree.pool.options.User
	switch {
	case isException(err, safeMode):
		return fmt.Errorf("hdfsstore: the namenode is in safe mode: it waits for its datanodes, or was told to (hdfs dfsadmin -safemode leave): %w", err)
	case errors.Is(err, fs.ErrPermission), isException(err, accessDenied):
		return configError("the user %q may not use %s; let an administrator run: hdfs dfs -mkdir -p %s && hdfs dfs -chown %s %s && hdfs dfs -chmod 700 %s: %w",
			user, root, root, user, root, root, err)
	case s.tree.pool.options.KerberosClient == nil && refusedToTalk(err):
		return fmt.Errorf("hdfsstore: the namenode refuses to talk; if it asks for Kerberos, set principal and keytab: %w", err)
	}
	return err
}

// refusedToTalk tells what the refusal of a user without proof looks like: it is
// an answer to no call, or the connection ends before the call is written. (The
// client keeps of its errors but the text.)
func refusedToTalk(err error) bool {
	text := err.Error()
	for _, sign := range []string{"unexpected sequence number", "broken pipe", "connection reset", "EOF"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// checkRoot makes sure of a directory that nobody else can change.
func (s *Store) checkRoot(ctx context.Context) error {
	root := s.tree.root
	info, err := s.tree.stat(ctx, ".")
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.tree.makeRoot(ctx); err == nil {
			info, err = s.tree.stat(ctx, ".")
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("hdfsstore: %s: %w", root, err)
	case !info.IsDir():
		return configError("%s is a file; name a directory", root)
	case info.Mode().Perm()&0o022 != 0:
		return configError("%s has mode %04o, so others can forge sessions; run: hdfs dfs -chmod 700 %s", root, info.Mode().Perm(), root)
	}
	return nil
}

func (t *tree) makeRoot(ctx context.Context) error {
	return t.pool.repeat(ctx, func(c *hdfs.Client) error { return c.MkdirAll(t.root, dirMode) })
}

// checkRename tries the two promises of Rename that every save rests on.
func (s *Store) checkRename(ctx context.Context) error {
	dir := dirstore.Unfinished()
	for _, d := range []string{dir, dir + "/a", dir + "/b", dir + "/b/full", dir + "/c"} {
		if err := s.tree.Mkdir(ctx, d); err != nil {
			return fmt.Errorf("hdfsstore: %w", err)
		}
	}
	const racers = 4
	results := make(chan error)
	for i := range racers {
		go func() { results <- s.tree.Rename(ctx, dir+"/a", fmt.Sprintf("%s/won%d", dir, i)) }()
	}
	won := 0
	var failed error
	for range racers {
		switch err := <-results; {
		case err == nil:
			won++
		case !errors.Is(err, fs.ErrNotExist):
			failed = err
		}
	}
	over := s.tree.Rename(ctx, dir+"/c", dir+"/b")
	if err := errors.Join(failed, s.tree.RemoveAll(ctx, dir)); err != nil {
		return fmt.Errorf("hdfsstore: %w", err)
	}
	switch {
	case won != 1:
		return configError("%d of %d renames of one directory succeeded, which is no HDFS; name the namenodes themselves", won, racers)
	case over == nil:
		return configError("a directory was renamed over one that is not empty, which is no HDFS; name the namenodes themselves")
	case !errors.Is(over, fs.ErrExist):
		return fmt.Errorf("hdfsstore: %w", over)
	}
	return nil
}

// checkData tries whether the datanodes can be reached.
func (s *Store) checkData(ctx context.Context) error {
	file := dirstore.Unfinished()
	want := []byte(file)
	err := s.tree.WriteFile(ctx, file, want)
	var got []byte
	if err == nil {
		got, err = s.tree.ReadFile(ctx, file, len(want))
	}
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("a file reads other than it was written")
	}
	_ = s.tree.Remove(ctx, file) // or the sweep
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission) || isException(err, safeMode):
		return err
	}
	return fmt.Errorf("hdfsstore: the namenode answers, but a file cannot be written and read; "+
		"if the datanodes cannot be reached by address, set datanode_hostnames=true; "+
		"if they protect data, let it be by authentication alone, or give them dfs.encrypt.data.transfer.cipher.suites=AES/CTR/NoPadding: %w", err)
}
