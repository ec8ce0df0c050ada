package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/owca-project/owca"
)

// The modes of a display; "auto" has become one of them.
const (
	modeTable = "table"
	modeLines = "lines"
	modeNone  = "none"
)

// display shows the tasks on stdout. The loop hands it what a tick saw and
// never waits for it: what is slower than the ticks misses some, and what
// fails ends, while the agent goes on.
type display struct {
	mode string
	io   stdio
	in   *os.File // the terminal's keys
	logs tableLog

	opened bool
	stop   chan struct{}  // closed by close
	done   chan struct{}  // closed when what open started has ended
	fresh  chan struct{}  // there is something new to show
	pipe   chan os.Signal // SIGPIPE, so that it does not kill

	mu      sync.Mutex
	capture capture
	latest  frame
	have    bool      // latest has not been taken
	shown   time.Time // of the frame in the last block of lines
}

// newDisplay makes a display that does nothing before open; observe and close
// without open show one tick (--once).
func newDisplay(mode string, automatic bool, io stdio) *display {
	if mode == "auto" {
		switch {
		case isTerminal(io.out) && isTerminal(os.Stdin) && foreground(io.out) && os.Getenv("TERM") != "dumb":
			mode = modeTable
		case automatic:
			mode = modeLines
		default:
			mode = modeNone
		}
	}
	return &display{
		mode: mode, io: io, in: os.Stdin,
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
		fresh: make(chan struct{}, 1),
		pipe:  make(chan os.Signal, 1),
	}
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// foreground is false for "owca &": the kernel would stop it (SIGTTOU) for
// changing the modes of the terminal.
func foreground(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// logWriter returns where log lines go: to w, but while the table is on the
// screen into the table, and to w only if that is not a terminal. What w misses
// that way it gets when the table is gone.
func (d *display) logWriter(w io.Writer) io.Writer {
	if d.mode != modeTable {
		return w
	}
	d.logs.w, d.logs.terminal, d.logs.changed = w, isTerminal(w), d.notify
	return &d.logs
}

// linesPace is the time between two blocks of lines.
const linesPace = 10 * time.Second

// observe copies what will be shown of a tick. It never waits for the terminal
// and allocates nothing once its buffers have grown.
func (d *display) observe(s *owca.Snapshot) {
	if d == nil || d.mode == modeNone {
		return
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capture.ticks++
	if d.mode == modeLines && d.opened {
		// Ticks are some microseconds off their grid.
		early := !d.shown.IsZero() && s.Time.Sub(d.shown) < linesPace-minInterval
		if d.capture.ticks < 2 || early {
			return
		}
		d.shown = s.Time
	}
	d.capture.read(&d.latest, s)
	d.latest.took = now.Sub(s.Time)
	d.have = true
	d.notify()
}

func (d *display) notify() {
	select {
	case d.fresh <- struct{}{}:
	default:
	}
}

// take exchanges f for the latest frame, if there is one that was not taken.
func (d *display) take(f *frame) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.have {
		return false
	}
	d.latest, *f = *f, d.latest
	d.have = false
	return true
}

// open begins to show what observe gets, until close. stop is called, from
// another goroutine, when the user wants the agent to end; the end of ctx is
// shown. The error is of usage; what fails later is logged.
func (d *display) open(ctx context.Context, stop func(interrupted bool)) error {
	switch d.mode {
	case modeLines:
		// The end of "owca | head" ends the lines, not the agent: a write fails
		// instead. Nobody has to read the channel.
		signal.Notify(d.pipe, syscall.SIGPIPE)
		d.opened = true
		go d.writeLines()
	case modeTable:
		out, ok := d.io.out.(*os.File)
		if !ok || !isTerminal(out) || os.Getenv("TERM") == "dumb" {
			return &exitError{exitUsage, errors.New("--output table needs a terminal, and not a dumb one; --output lines does not")}
		}
		d.opened = true
		d.startTable(ctx, out, stop)
	}
	return nil
}

// closeGrace is how long close waits for a terminal or a pipe that takes
// nothing.
const closeGrace = time.Second

// close ends what open started and gives the terminal back. Without open it
// prints the tick that observe got; the error is about that.
func (d *display) close() error {
	if d == nil || d.mode == modeNone {
		return nil
	}
	if !d.opened {
		var f frame
		if !d.take(&f) {
			return nil
		}
		if _, err := d.io.out.Write(f.appendText(nil)); err != nil {
			return fmt.Errorf("writing the table: %w", err)
		}
		return nil
	}
	defer signal.Stop(d.pipe)
	close(d.stop)
	select {
	case <-d.done:
	case <-time.After(closeGrace):
	}
	return nil
}

// writeLines writes a block of lines for each frame.
func (d *display) writeLines() {
	defer close(d.done)
	var f frame
	var text []byte
	for {
		select {
		case <-d.stop:
			return
		case <-d.fresh:
		}
		if !d.take(&f) {
			continue
		}
		text = append(f.appendText(text[:0]), '\n')
		if _, err := d.io.out.Write(text); err != nil {
			if !errors.Is(err, syscall.EPIPE) {
				slog.Warn("no more lines on stdout; the agent goes on", "component", "run", "error", err)
			}
			return
		}
	}
}

// startTable shows the live table on the terminal until close, or until it
// fails.
func (d *display) startTable(ctx context.Context, out *os.File, stop func(interrupted bool)) {
	before, stateErr := term.GetState(int(d.in.Fd()))
	program := tea.NewProgram(newTable(d, ctx.Done(), stop),
		tea.WithInput(d.in), tea.WithOutput(out), tea.WithoutSignalHandler())
	d.logs.divert()
	ended := make(chan error, 1)
	go func() {
		_, err := program.Run()
		ended <- err
	}()
	go func() {
		defer close(d.done)
		var err error
		select {
		case err = <-ended:
		case <-d.stop:
			select {
			case err = <-ended:
			case <-time.After(closeGrace / 2):
				// The terminal takes nothing, so that Run hangs in a write.
				program.Kill()
				if stateErr == nil {
					err = term.Restore(int(d.in.Fd()), before)
				}
			}
		}
		d.logs.restore()
		if err != nil {
			slog.Warn("the table on the terminal failed; the agent goes on", "component", "run", "error", err)
		}
	}()
}
