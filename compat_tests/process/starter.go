// starter PROGRAM [ARGUMENT...]: runs it by os/exec, with its own descriptors, and ends with its status.
package main

import (
	"os"
	"os/exec"
)

func main() {
	child := exec.Command(os.Args[1], os.Args[2:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Run()
	os.Exit(child.ProcessState.ExitCode())
}
