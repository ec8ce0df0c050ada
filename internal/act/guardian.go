package act

import (
	"context"
	"io"
)

// Guardian is a process that restores the leases when this one ends without having done so, as by SIGKILL.
type Guardian struct{}

// StartGuardian starts command, which must call [Guard], with one end of a pipe as its standard input; the
// other end closes with this process, however it ends. It is started again if it ends.
func StartGuardian(command []string) (*Guardian, error) { panic("C") }

// Alive says whether it runs.
func (g *Guardian) Alive() bool { panic("C") }

// Dismiss ends it without a restore, and waits for that.
func (g *Guardian) Dismiss() error { panic("C") }

// Guard is the guardian: it waits until in ends, and restores unless it was dismissed. It keeps the memory that it
// waits in small, and takes no notice of signals that are for the agent.
func Guard(ctx context.Context, in io.Reader, root, dir string) ([]Outcome, error) { panic("C") }
