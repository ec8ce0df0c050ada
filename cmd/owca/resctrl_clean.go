package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/resctrl"
)

type resctrlCleanCommand struct {
	All      bool   `help:"Every group, whoever made it."`
	Yes      bool   `short:"y" help:"Don't ask before --all."`
	DryRun   bool   `help:"Only print what would be removed."`
	Force    bool   `help:"Even while a program has files of resctrl open."`
	HostRoot string `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Help is what --help says beyond the flags.
func (*resctrlCleanCommand) Help() string {
	return `Groups of owca are those whose names begin with "` + resctrl.Prefix + `"; an agent that is stopped removes them itself. The next agent
to start adopts those that it can use and removes the others, so that this is only for hosts on which none will run.

A group's threads go to the default group, those of a monitoring group to its control group; their caches and
bandwidth are then limited as that group's. While a program has files of resctrl open, as a running agent has,
nothing is removed: the agent would make its groups anew.`
}

func (c *resctrlCleanCommand) Run(io stdio) error { return c.clean(io, os.Stdin, isTerminal(os.Stdin)) }

// clean asks on in if somebody is there to answer.
func (c *resctrlCleanCommand) clean(io stdio, in io.Reader, terminal bool) (err error) {
	tree, err := openResctrl(c.HostRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	before, err := tree.Groups(nil)
	if err != nil {
		return err
	}
	doomed, spared := c.choose(before)
	for _, n := range spared {
		fmt.Fprintf(io.err, "owca: %s stays: there are groups in it that owca did not make; --all removes them, too\n", appendClean(nil, n.String()))
	}
	if len(doomed) == 0 {
		_, err := fmt.Fprintln(io.out, "nothing to remove")
		return err
	}
	if c.DryRun {
		return printNames(io.out, "would remove ", doomed)
	}
	if users, err := usersOf(c.HostRoot, tree.Mount().Dir); !c.Force {
		if len(users) > 0 {
			return fmt.Errorf("%s has files of %s open: stop it first, or --force", strings.Join(users, " and "), tree.Mount().Dir)
		}
		if err != nil {
			return fmt.Errorf("whether an agent runs cannot be told: %w; --force removes the groups all the same", err)
		}
	}
	if c.All && !c.Yes {
		if !terminal {
			return &exitError{exitUsage, fmt.Errorf("--all removes %d groups, whoever made them: --yes, as there is no terminal to ask on", len(doomed))}
		}
		if err := printNames(io.out, "", doomed); err != nil {
			return err
		}
		fmt.Fprintf(io.out, "Remove these %d groups? [y/N] ", len(doomed))
		answer, err := bufio.NewReader(in).ReadString('\n')
		if err != nil || !slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer))) {
			return errors.New("nothing was removed")
		}
	}
	problem := c.remove(tree, doomed)
	after, err := tree.Groups(nil)
	if err != nil {
		return errors.Join(problem, err)
	}
	gone := slices.DeleteFunc(before, func(n resctrl.Name) bool { return slices.Contains(after, n) })
	return errors.Join(problem, printNames(io.out, "removed ", gone))
}

func (c *resctrlCleanCommand) remove(tree *resctrl.Tree, doomed []resctrl.Name) error {
	if c.All {
		return tree.RemoveAll()
	}
	var problems []error
	for _, n := range doomed {
		problems = append(problems, tree.Remove(n))
	}
	return errors.Join(problems...)
}

// choose returns what is to be removed, monitoring groups before the control
// groups that they are in, and those of ours that must stay: with a control group
// go all monitoring groups in it.
func (c *resctrlCleanCommand) choose(all []resctrl.Name) (doomed, spared []resctrl.Name) {
	for _, n := range slices.Backward(all) {
		switch {
		case n == resctrl.Name{} || !c.All && !n.Ours():
		case !c.All && n.Monitor == "" && slices.ContainsFunc(all, func(m resctrl.Name) bool {
			return m.Control == n.Control && m.Monitor != "" && !m.Ours()
		}):
			spared = append(spared, n)
		default:
			doomed = append(doomed, n)
		}
	}
	return doomed, spared
}

func printNames(w io.Writer, verb string, names []resctrl.Name) error {
	var b []byte
	for _, n := range names {
		b = append(appendClean(append(b, verb...), n.String()), '\n')
	}
	_, err := w.Write(b)
	return err
}

// usersOf returns the other processes that have files of the file system at dir
// open, as "owca (pid 17)"; in a container, those of the host. It is known by the
// device, so that other mount points of it count, too.
func usersOf(root, dir string) (users []string, err error) {
	device, err := deviceOf(dir)
	if err != nil {
		return nil, err
	}
	procfs := filepath.Join(root, "proc")
	entries, err := os.ReadDir(procfs)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		open, fdErr := hasOpen(filepath.Join(procfs, e.Name(), "fd"), device)
		if fdErr != nil {
			return users, fdErr
		}
		if open {
			comm, err := os.ReadFile(filepath.Join(procfs, e.Name(), "comm"))
			if err != nil {
				comm = []byte("a process") // it has ended, or it will in a moment
			}
			users = append(users, fmt.Sprintf("%s (pid %d)", appendClean(nil, strings.TrimSpace(string(comm))), pid))
		}
	}
	return users, nil
}

// hasOpen follows the links of /proc/PID/fd; the process may end meanwhile.
func hasOpen(dir string, device uint64) (bool, error) {
	f, err := os.Open(dir)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && !gone(err) {
		return false, err
	}
	for _, name := range names {
		other, err := deviceOf(filepath.Join(dir, name))
		switch {
		case err == nil && other == device:
			return true, nil
		case errors.Is(err, fs.ErrPermission):
			return false, err
		}
		// Anything else is a file that was closed, or one of a file system that
		// does not answer.
	}
	return false, nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// deviceOf is st_dev, asked for without waiting for a server that is away.
func deviceOf(path string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return 0, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), nil
}
