//go:build !unix

package main

import (
	"errors"
	"os"
	"os/exec"
)

var errSystem = errors.New("this system cannot do that")

// terminate has no gentle way here.
func terminate(p *os.Process) error { return p.Kill() }
func freeze(*os.Process) error      { return errSystem }
func thaw(*os.Process) error        { return errSystem }

func apart(*exec.Cmd) {}
