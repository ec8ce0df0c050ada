package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup is one line of /proc/PID/cgroup: where a process is in one hierarchy.
type Cgroup struct {
	// Controllers of a v1 hierarchy, named ones as "name=systemd"; nil for v2.
	Controllers []string
	// Path below the root of the hierarchy as the caller's cgroup namespace
	// shows it. For a zombie of a removed v2 cgroup it ends in " (deleted)".
	Path string
}

// Cgroups returns the cgroups of a process or thread, one for each hierarchy,
// from /proc/PID/cgroup. The error is an [ErrGone] if it does not exist.
func (fs FS) Cgroups(pid int) ([]Cgroup, error) {
	return fs.cgroups(fmt.Sprintf("/proc/%d/cgroup", pid))
}

// SelfCgroups returns the cgroups of the caller.
func (fs FS) SelfCgroups() ([]Cgroup, error) { return fs.cgroups("/proc/self/cgroup") }

func (fs FS) cgroups(name string) ([]Cgroup, error) {
	b, err := fs.ofProcess(name)
	if err != nil {
		return nil, err
	}
	list, err := parseCgroups(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fs.path(name), err)
	}
	return list, nil
}

// ofProcess reads a file of a process, which may end at any time.
func (fs FS) ofProcess(name string) ([]byte, error) {
	b, err := os.ReadFile(fs.path(name))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("%s: %w", fs.path(name), ErrGone)
	}
	return b, err
}

// parseCgroups parses /proc/PID/cgroup (cgroups(7)):
//
//	4:memory:/user.slice
//	1:name=systemd:/user.slice/session-1.scope
//	0::/user.slice/session-1.scope
//
// Paths may contain anything but a newline, colons too.
func parseCgroups(b []byte) ([]Cgroup, error) {
	var list []Cgroup
	for {
		line, rest, ok := cutLine(b)
		if !ok {
			return list, nil
		}
		b = rest
		_, tail, ok := cutUint(line)
		if !ok || len(tail) == 0 || tail[0] != ':' {
			return nil, malformed(line)
		}
		controllers, path, ok := bytes.Cut(tail[1:], []byte(":"))
		if !ok || len(path) == 0 || path[0] != '/' {
			return nil, malformed(line)
		}
		c := Cgroup{Path: string(path)}
		if len(controllers) > 0 {
			c.Controllers = strings.Split(string(controllers), ",")
		}
		list = append(list, c)
	}
}

// IsKernelThread says whether a process is a thread of the kernel, by its flags
// in /proc/PID/stat. The error is an [ErrGone] if it does not exist.
func (fs FS) IsKernelThread(pid int) (bool, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := fs.ofProcess(name)
	if err != nil {
		return false, err
	}
	flags, err := parseFlags(b)
	if err != nil {
		return false, fmt.Errorf("%s: %w", fs.path(name), err)
	}
	const kthread = 0x00200000 // PF_KTHREAD, include/linux/sched.h
	return flags&kthread != 0, nil
}

// parseFlags returns the ninth field of /proc/PID/stat (proc_pid_stat(5)):
//
//	2 (kthreadd) S 0 0 0 0 -1 2129984 …
//
// The name in parentheses may contain parentheses, blanks and newlines; what
// follows the last one are numbers and one letter.
func parseFlags(b []byte) (uint64, error) {
	i := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[i+1:])
	// state ppid pgrp session tty_nr tpgid flags …: there are always more.
	if i < 0 || len(fields) < 8 {
		return 0, malformed(b)
	}
	flags, tail, ok := cutUint(fields[6])
	if !ok || len(tail) > 0 {
		return 0, malformed(b)
	}
	return flags, nil
}
