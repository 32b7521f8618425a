package hdfsstore

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/colinmarc/hdfs/v2"
)

// The exceptions that the client returns as they come.
const (
	fileNotFound = "java.io.FileNotFoundException"
	ioException  = "java.io.IOException"
	safeMode     = "org.apache.hadoop.hdfs.server.namenode.SafeModeException"
	accessDenied = "org.apache.hadoop.security.AccessControlException"
)

// mapped makes an error of the client one of io/fs where it is one: not there,
// or there already. Every other is a failure.
func mapped(err error) error {
	var remote hdfs.Error
	if !errors.As(err, &remote) {
		return err // with os's errors in it, if they fit
	}
	message, _, _ := strings.Cut(remote.Message(), "\n") // a stack trace follows
	err = fmt.Errorf("%s: %s: %s", remote.Method(), remote.Exception(), message)
	switch {
	case remote.Exception() == fileNotFound, strings.Contains(message, "File does not exist"),
		// The block of a file that was removed while it was written.
		remote.Method() == "updateBlockForPipeline" && remote.Exception() == ioException:
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case remote.Exception() == ioException && strings.Contains(message, "rename destination directory is not empty"):
		return fmt.Errorf("%w: %w", fs.ErrExist, err)
	}
	return &remoteError{remote.Exception(), err}
}

// A remoteError is an exception of the namenode that is neither.
type remoteError struct {
	exception string
	error
}

// isException tells whether a namenode threw this.
func isException(err error, name string) bool {
	var remote *remoteError
	return errors.As(err, &remote) && remote.exception == name
}
