//go:build unix

package memcachedstore

import (
	"net"
	"syscall"
)

// idle tells what is wrong with a connection on which nothing may arrive now.
func idle(c net.Conn) error {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, readErr = syscall.Read(int(fd), b[:]) // net's sockets never block
		return true
	})
	switch {
	case err != nil:
		return err
	case n > 0:
		return errUnasked
	case readErr == syscall.EAGAIN || readErr == syscall.EWOULDBLOCK || readErr == syscall.EINTR:
		return nil
	case readErr != nil:
		return readErr
	}
	return errClosed
}
