//go:build unix

package sticky

import (
	"io"
	"syscall"
)

const canReadNow = true

// readNow reads what a socket of package net has; they never block.
func readNow(fd uintptr, b []byte) (int, error) {
	n, err := syscall.Read(int(fd), b)
	switch {
	case n > 0:
		return n, nil
	case err == syscall.EAGAIN || err == syscall.EWOULDBLOCK || err == syscall.EINTR:
		return 0, errNothing
	case err != nil:
		return 0, err
	}
	return 0, io.EOF
}
