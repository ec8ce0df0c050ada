package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca/internal/hosttest"
)

// parts are how many tasks there are in all after each step of making them.
// Those of a part have a parent of their own, so that discovery can be kept out
// of the parts that a measurement is not about.
var parts = []int{50, 500, 1000, 2000}

// others are the cgroups at the top that are not ours, by their first letter:
// what comes and goes there is none of our business.
const others = "/[^_]*/**"

// host is what the program has made on this host.
type host struct {
	root        string // path of the cgroup around all of ours
	hierarchies []hosttest.Hierarchy
	sleep       string
	null        *os.File

	tasks []string // paths, in lexical order
	pids  []int    // of their sleepers
}

func newHost() (*host, error) {
	h := &host{root: fmt.Sprintf("/_owca-bench-%d", os.Getpid()), hierarchies: hosttest.Hierarchies()}
	if len(h.hierarchies) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	var err error
	if h.sleep, err = exec.LookPath("sleep"); err != nil {
		return nil, err
	}
	if h.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if err := h.mkdir(h.root, true); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// part is the parent of the tasks up to number n.
func (h *host) part(n int) string { return fmt.Sprintf("%s/%05d", h.root, n) }

// grow makes tasks until there are n, one of parts.
func (h *host) grow(ctx context.Context, n int) error {
	for _, part := range parts {
		if part > n {
			break
		}
		if len(h.tasks) >= part {
			continue
		}
		progress("making cgroups and sleepers up to %d", part)
		if err := h.mkdir(h.part(part), true); err != nil {
			return err
		}
		for len(h.tasks) < part {
			if err := ctx.Err(); err != nil {
				return err
			}
			path := fmt.Sprintf("%s/%05d", h.part(part), len(h.tasks))
			pid, err := h.start(path, h.sleep, "1000000")
			if err != nil {
				return err
			}
			h.tasks, h.pids = append(h.tasks, path), append(h.pids, pid)
		}
	}
	return nil
}

// start makes a cgroup and starts a program in it. os/exec would keep a pidfd
// open for each.
func (h *host) start(path, program string, args ...string) (pid int, err error) {
	if err := h.mkdir(path, false); err != nil {
		return 0, err
	}
	null := h.null.Fd()
	pid, err = syscall.ForkExec(program, append([]string{program}, args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{null, null, null},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", program, err)
	}
	if err := h.add(path, pid); err != nil {
		return 0, errors.Join(err, end(pid))
	}
	return pid, nil
}

// add moves a process into a cgroup, in every hierarchy.
func (h *host) add(path string, pid int) error {
	for i := range h.hierarchies {
		file := h.hierarchies[i].Dir + path + "/cgroup.procs"
		if err := os.WriteFile(file, strconv.AppendInt(nil, int64(pid), 10), 0); err != nil {
			return err
		}
	}
	return nil
}

// end kills a child and waits for it.
func end(pid int) error {
	// ESRCH can't be: it is a child, at least a zombie.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for {
		_, err := syscall.Wait4(pid, nil, 0, nil)
		if err != syscall.EINTR {
			return err
		}
	}
}

// mkdir makes a cgroup in every hierarchy. With parent, cgroups below it will
// have the controllers that it has.
func (h *host) mkdir(path string, parent bool) error {
	for i := range h.hierarchies {
		hierarchy := &h.hierarchies[i]
		dir := hierarchy.Dir + path
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		switch {
		case hierarchy.Type == "cgroup2" && parent:
			b, err := os.ReadFile(dir + "/cgroup.controllers")
			if err != nil {
				return err
			}
			for c := range strings.FieldsSeq(string(b)) {
				if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
					return err
				}
			}
		case slices.Contains(hierarchy.Controllers, "cpuset"):
			// Until both are set no process can be moved in.
			for _, file := range []string{"/cpuset.cpus", "/cpuset.mems"} {
				b, err := os.ReadFile(filepath.Dir(dir) + file)
				if err == nil {
					err = os.WriteFile(dir+file, b, 0)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// rmdir removes a cgroup from every hierarchy. Those whose last process has
// just ended stay busy for a moment.
func (h *host) rmdir(path string) error {
	var errs []error
	for i := range h.hierarchies {
		dir := h.hierarchies[i].Dir + path
		err := os.Remove(dir)
		for deadline := time.Now().Add(10 * time.Second); errors.Is(err, syscall.EBUSY) && time.Now().Before(deadline); err = os.Remove(dir) {
			time.Sleep(5 * time.Millisecond)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// close ends the sleepers and removes all cgroups of ours.
func (h *host) close() error {
	var errs []error
	for _, pid := range h.pids {
		errs = append(errs, end(pid))
	}
	var paths []string
	for i := range h.hierarchies {
		dir := h.hierarchies[i].Dir
		err := filepath.WalkDir(dir+h.root, func(path string, d fs.DirEntry, err error) error {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil && d.IsDir() {
				paths = append(paths, strings.TrimPrefix(path, dir))
			}
			return nil
		})
		errs = append(errs, err)
	}
	slices.Sort(paths)
	for _, path := range slices.Backward(slices.Compact(paths)) {
		errs = append(errs, h.rmdir(path))
	}
	return errors.Join(append(errs, h.null.Close())...)
}
