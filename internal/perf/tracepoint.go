package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// tracepoints finds the directory of tracefs that has the events, relative to
// Root. The error wraps [errors.ErrUnsupported] if tracefs is not mounted, and
// EACCES if this user may not look.
func (f FS) tracepoints() (string, error) {
	var denied error
	for _, dir := range []string{"sys/kernel/tracing/events", "sys/kernel/debug/tracing/events"} {
		_, err := os.Stat(f.path(dir))
		switch {
		case err == nil:
			return dir, nil
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, fs.ErrPermission):
			denied = fmt.Errorf("tracepoints need root to be looked up: %w", err)
		default:
			return "", err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("tracefs is not mounted (mount -t tracefs tracefs %s): %w", f.path("sys/kernel/tracing"), errors.ErrUnsupported)
}

// tracepoint returns what the kernel calls a tracepoint in perf_event_attr:
// the number in its file id.
func (f FS) tracepoint(subsystem, name string) (uint64, error) {
	dir, err := f.tracepoints()
	if err != nil {
		return 0, err
	}
	return f.tracepointID(dir, subsystem, name)
}

func (f FS) tracepointID(dir, subsystem, name string) (uint64, error) {
	file := dir + "/" + subsystem + "/" + name + "/id"
	text, err := f.line(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, f.unknownTracepoint(dir, subsystem, name)
	}
	if errors.Is(err, fs.ErrPermission) {
		return 0, fmt.Errorf("tracepoints need root to be looked up: %w", err)
	}
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, f.notNumber(file, text)
	}
	return id, nil
}

func (f FS) unknownTracepoint(dir, subsystem, name string) error {
	if _, err := os.Stat(f.path(dir + "/" + subsystem + "/" + name)); err == nil {
		return fmt.Errorf("the kernel does not offer this tracepoint to perf: %w", errors.ErrUnsupported)
	}
	whole := subsystem + ":" + name
	subsystems, err := f.names(dir)
	if err != nil {
		return err
	}
	e := &UnknownError{Name: whole, Reason: "this kernel has no such tracepoint"}
	names, err := f.names(dir + "/" + subsystem)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		subsystem = nearest(subsystem, subsystems)
		if names, err = f.names(dir + "/" + subsystem); err != nil {
			return err
		}
	}
	for i := range names {
		names[i] = subsystem + ":" + names[i]
	}
	e.Nearest = nearest(whole, names)
	return e
}

// allTracepoints lists those that perf can count, as "subsystem:name", sorted.
func (f FS) allTracepoints(dir string) ([]string, error) {
	subsystems, err := f.names(dir)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, subsystem := range subsystems {
		entries, err := os.ReadDir(f.path(dir + "/" + subsystem))
		if err != nil {
			if errors.Is(err, unix.ENOTDIR) { // files as enable
				continue
			}
			return list, err
		}
		for _, entry := range entries {
			if _, err := os.Stat(f.path(dir + "/" + subsystem + "/" + entry.Name() + "/id")); err == nil {
				list = append(list, subsystem+":"+entry.Name())
			}
		}
	}
	return list, nil
}
