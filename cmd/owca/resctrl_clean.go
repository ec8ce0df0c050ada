package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/owca-project/owca/internal/resctrl"
)

type resctrlCleanCommand struct {
	All      bool   `help:"Every group, whoever made it."`
	Yes      bool   `short:"y" help:"Don't ask before --all."`
	DryRun   bool   `help:"Only print what would be removed."`
	Force    bool   `help:"Even while an agent is running."`
	HostRoot string `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Help is what --help says beyond the flags.
func (*resctrlCleanCommand) Help() string {
	return `Groups of owca are those whose names begin with "` + resctrl.Prefix + `"; an agent that is stopped removes them itself. The next agent
to start adopts those that it can use and removes the others, so that this is only for hosts on which none will run.

A group's threads go to the default group, those of a monitoring group to its control group; their caches and
bandwidth are then limited as that group's. While an agent is running nothing is removed: it would make its groups
anew. One that is started meanwhile waits, or with rdt_enabled: true does not start.`
}

func (c *resctrlCleanCommand) Run(io stdio) error { return c.clean(io, os.Stdin, isTerminal(os.Stdin)) }

// clean asks on in if somebody is there to answer.
func (c *resctrlCleanCommand) clean(io stdio, in io.Reader, terminal bool) (err error) {
	tree, err := openResctrl(c.HostRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	// Before the groups are listed, so that none is removed that an agent has adopted since.
	if !c.DryRun {
		switch err := tree.Claim(); {
		case errors.Is(err, resctrl.ErrInUse) && c.Force:
		case errors.Is(err, resctrl.ErrInUse):
			return fmt.Errorf("%w: stop it first, or --force", err)
		case err != nil:
			return err
		}
	}
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
