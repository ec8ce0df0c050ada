package act

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

const (
	// guardianDismissed is what the agent writes when there is nothing to restore.
	guardianDismissed = 'q'
	// guardianPause is before a guardian that ended is started again, twice as long each time up
	// to guardianMaxPause, unless it ran for that long.
	guardianPause    = 100 * time.Millisecond
	guardianMaxPause = time.Minute
	// guardianEnd is how long one that was dismissed may take to end.
	guardianEnd = 5 * time.Second
	// guardianPatience is how long the lock of an agent that died may last: until the kernel has
	// closed its files, of which one was the pipe.
	guardianPatience = 10 * time.Second
)

// Guardian is a process that restores the leases when this one ends without having done
// so, as by SIGKILL.
type Guardian struct {
	command []string
	quit    chan struct{} // closed by Dismiss
	ended   chan struct{} // closed when no process is, nor will be

	mu        sync.Mutex
	dismissed bool
	cmd       *exec.Cmd // that runs; nil in a pause
	pipe      *os.File
	started   time.Time
	last      error // how the last one ended, or why it could not be started
}

// StartGuardian starts command, which must call [Guard], with one end of a pipe as its
// standard input; the other end closes with this process, however it ends. Its standard error
// is this process's. It is started again if it ends, after a pause that grows.
func StartGuardian(command []string) (*Guardian, error) {
	if len(command) == 0 {
		return nil, errors.New("act: a guardian without a command")
	}
	g := &Guardian{command: command, quit: make(chan struct{}), ended: make(chan struct{})}
	if err := g.start(); err != nil {
		return nil, err
	}
	go g.keep()
	return g, nil
}

func (g *Guardian) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dismissed {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("guardian: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(g.command[0], g.command[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stderr = "/", r, os.Stderr
	// What is sent to the agent's process group, as by Ctrl-C, is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = w.Close() // nothing was written
		return fmt.Errorf("guardian: %w", err)
	}
	g.cmd, g.pipe, g.started = cmd, w, time.Now()
	return nil
}

// keep starts it again until it is dismissed.
func (g *Guardian) keep() {
	defer close(g.ended)
	pause := guardianPause
	for {
		g.mu.Lock()
		cmd, pipe, started := g.cmd, g.pipe, g.started
		g.mu.Unlock()
		if cmd != nil {
			err := cmd.Wait()
			g.mu.Lock()
			_ = pipe.Close() // nobody reads it
			switch g.cmd = nil; {
			case err != nil:
				g.last = fmt.Errorf("guardian: %w", err)
			case g.dismissed:
				g.last = nil
			default:
				g.last = errors.New("guardian: it ended by itself")
			}
			g.mu.Unlock()
			if time.Since(started) > guardianMaxPause {
				pause = guardianPause
			}
		}
		select {
		case <-g.quit:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, guardianMaxPause)
		if err := g.start(); err != nil {
			g.mu.Lock()
			g.last = err
			g.mu.Unlock()
		}
	}
}

// Alive says whether it runs.
func (g *Guardian) Alive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cmd != nil
}

// Err returns how the last one ended that did, or why it could not be started; nil when
// another one has run for a minute since, so that one that ends time and again is one error.
func (g *Guardian) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd != nil && time.Since(g.started) > guardianMaxPause {
		return nil
	}
	return g.last
}

// Dismiss ends it without a restore, and waits for that. The error is that it had to be
// killed, or how else it ended. It is called once.
func (g *Guardian) Dismiss() error {
	g.mu.Lock()
	g.dismissed = true
	close(g.quit)
	cmd := g.cmd
	var err error
	if cmd != nil {
		if _, err = g.pipe.Write([]byte{guardianDismissed}); errors.Is(err, syscall.EPIPE) {
			err = nil // it has ended by itself
		}
	}
	g.mu.Unlock()
	if cmd == nil {
		<-g.ended
		return nil
	}
	select {
	case <-g.ended:
	case <-time.After(guardianEnd):
		err = errors.Join(err, fmt.Errorf("guardian: it did not end within %v and is killed", guardianEnd), cmd.Process.Kill())
		<-g.ended
		return err
	}
	return errors.Join(err, g.Err())
}

// Guard is the guardian: it waits until in ends, and restores unless it was dismissed. It
// keeps the memory that it waits in small, and takes no notice of signals that are for
// the agent; ctx is for the restore alone. ErrHeld: the next agent was faster, which
// restores or adopts.
func Guard(ctx context.Context, in io.Reader, root, dir string) ([]Outcome, error) {
	// SIGPIPE, too: the standard error may end with the agent.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	agent := os.Getppid()
	old := debug.SetGCPercent(10)
	debug.FreeOSMemory()

	// A read that fails is an end, too: as long as the agent lives it has the lock.
	b := make([]byte, 1)
	for {
		n, err := in.Read(b)
		if n == 1 && b[0] == guardianDismissed {
			return nil, nil
		}
		if err != nil {
			break
		}
	}
	debug.SetGCPercent(old)
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		outcomes, _, err := Restore(ctx, root, dir)
		held, ok := errors.AsType[*heldError](err)
		if !ok || held.holder.PID != agent || time.Since(start) > guardianPatience || ctx.Err() != nil {
			return outcomes, err
		}
	}
}
