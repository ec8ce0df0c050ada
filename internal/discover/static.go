package discover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/owca-project/owca"
)

// StaticNode has the tasks that the configuration names: cgroups by path, or
// all cgroups right below a directory. The ID and name of a task is its path as
// written. A cgroup that is in no hierarchy is skipped, with a warning when it
// goes missing. It is used by one goroutine at a time.
type StaticNode struct {
	Names            []string                     `yaml:"tasks" help:"paths of cgroups, with or without a / before them; required unless there is a directory"`
	RequirePIDs      bool                         `yaml:"require_pids" help:"only cgroups that have processes, in them or below them"`
	DefaultLabels    map[string]string            `yaml:"default_labels" help:"labels of every task"`
	DefaultResources map[string]float64           `yaml:"default_resources" help:"resources of every task, in cores and bytes"`
	TasksLabels      map[string]map[string]string `yaml:"tasks_labels" help:"labels by task, which override the default ones"`
	Directory        string                       `yaml:"directory" help:"path of a cgroup: each cgroup right below it is a task"`

	hierarchies func() ([]string, error)
	log         *slog.Logger

	mounts    *mounts
	dir       string // Directory, clean
	state     staticState
	resources map[string]float64
	entries   []*staticEntry
	children  map[string]*staticEntry // by name, of dir
	round     uint64
	changed   bool // tasks are to be made anew
	tasks     []owca.Task
	problems  map[string]bool
}

type staticEntry struct {
	task    owca.Task
	path    string
	child   bool // found in the directory, not named
	h       int  // hierarchy where it was last
	seen    uint64
	state   staticState
	listing bool
}

type staticState uint8

const (
	neverSeen staticState = iota
	present
	missing
)

// NewStatic returns a StaticNode with its defaults. hierarchies returns the
// mount points of all cgroup hierarchies; it is called by Start.
func NewStatic(hierarchies func() ([]string, error)) *StaticNode {
	return &StaticNode{hierarchies: hierarchies}
}

// Validate checks the paths.
func (n *StaticNode) Validate() error {
	var errs []error
	if len(n.Names) == 0 && n.Directory == "" {
		errs = append(errs, fieldError{"tasks", errors.New("no cgroup is named, and no directory")})
	}
	byPath := make(map[string]string)
	for _, name := range n.Names {
		p, err := cleanCgroup(name)
		if err != nil {
			errs = append(errs, fieldError{"tasks", err})
			continue
		}
		if other, ok := byPath[p]; ok {
			errs = append(errs, fieldError{"tasks", fmt.Errorf("%q and %q are the same cgroup", other, name)})
		}
		byPath[p] = name
	}
	if n.Directory != "" {
		if _, err := cleanCgroup(n.Directory); err != nil {
			errs = append(errs, fieldError{"directory", err})
		}
	}
	return errors.Join(errs...)
}

// cleanCgroup makes the path of a cgroup, "" for the root.
func cleanCgroup(name string) (string, error) {
	if name == "" {
		return "", errors.New("the path of a cgroup is empty (the root is /)")
	}
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("the path %q contains a NUL", name)
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("the path %q has an element \"..\"", name)
	}
	return strings.TrimSuffix(path.Clean("/"+name), "/"), nil
}

// Start finds the hierarchies.
func (n *StaticNode) Start(context.Context) error {
	if err := n.Validate(); err != nil {
		return err
	}
	dirs, err := n.hierarchies()
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	if n.mounts, err = openMounts(dirs); err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	if n.log == nil {
		n.log = slog.With("component", "discover")
	}
	n.problems = make(map[string]bool)
	n.children = make(map[string]*staticEntry)
	n.changed = true
	n.resources = maps.Clone(n.DefaultResources)
	for _, name := range n.Names {
		p, err := cleanCgroup(name)
		if err != nil {
			return err
		}
		n.entries = append(n.entries, n.entry(name, p))
	}
	if n.Directory != "" {
		if n.dir, err = cleanCgroup(n.Directory); err != nil {
			return err
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(n.TasksLabels)) {
		if !slices.ContainsFunc(n.entries, func(e *staticEntry) bool { return n.same(e, name) }) {
			n.log.Warn("tasks_labels names a task that is not among the tasks", "task", name)
		}
	}
	return nil
}

// same: a key of tasks_labels means the entry, as it may be written in two ways.
func (n *StaticNode) same(e *staticEntry, name string) bool {
	p, err := cleanCgroup(name)
	return string(e.task.ID) == name || err == nil && p == e.path
}

func (n *StaticNode) entry(name, p string) *staticEntry {
	e := &staticEntry{path: p}
	e.task.ID, e.task.Name = owca.TaskID(name), strings.ToValidUTF8(name, "\uFFFD")
	e.task.Cgroups = []string{p}
	if p == "" {
		e.task.Cgroups[0] = "/"
	}
	e.task.Resources = n.resources
	e.task.Labels = make(map[string]string)
	set := func(labels map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			e.task.Labels[owca.SanitizeLabelName(key)] = labels[key]
		}
	}
	set(n.DefaultLabels)
	for _, key := range slices.Sorted(maps.Keys(n.TasksLabels)) {
		if n.same(e, key) {
			set(n.TasksLabels[key])
		}
	}
	return e
}

// Tasks implements owca.Node: the named tasks in the order of the list, then
// those of the directory sorted by ID. As long as nothing has changed it
// returns the same slice.
func (n *StaticNode) Tasks(ctx context.Context) ([]owca.Task, error) {
	if n.mounts == nil {
		return nil, errors.New("discover: not started")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	n.round++
	if n.Directory != "" && n.listDirectory() {
		n.changed = true
	}
	for i, e := range n.entries {
		if i%64 == 63 {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("discover: %w", err)
			}
		}
		listing := n.exists(e) && (!n.RequirePIDs || n.populated(e))
		if listing != e.listing {
			e.listing, n.changed = listing, true
		}
	}
	if !n.changed {
		return n.tasks, nil
	}
	n.changed = false
	n.entries = slices.DeleteFunc(n.entries, func(e *staticEntry) bool {
		if e.child && e.seen != n.round {
			delete(n.children, path.Base(e.path))
			return true
		}
		return false
	})
	n.tasks = make([]owca.Task, 0, len(n.entries))
	for _, e := range n.entries {
		if e.listing {
			n.tasks = append(n.tasks, e.task)
		}
	}
	return n.tasks, nil
}

// listDirectory notes which cgroups are right below the directory, in any
// hierarchy, and tells whether there are other ones than last time.
func (n *StaticNode) listDirectory() (changed bool) {
	there := false
	for h := range n.mounts.list {
		err := n.mounts.subdirs(h, n.dir, func(name []byte) {
			e := n.children[string(name)]
			if e == nil {
				e = n.newChild(string(name))
				changed = true
			}
			e.seen, e.h = n.round, h
		})
		switch {
		case err == nil:
			there = true
		case !gone(err):
			n.problem("the directory cannot be read", n.Directory, err)
		}
	}
	switch {
	case !there && n.state != missing:
		n.state = missing
		n.log.Warn("the directory is in no cgroup hierarchy; it has no tasks", "directory", n.Directory)
	case there && n.state == missing:
		n.state = present
		n.log.Info("the directory exists now", "directory", n.Directory)
	case there:
		n.state = present
	}
	for _, e := range n.entries {
		if e.child && e.seen != n.round {
			changed = true
		}
	}
	return changed
}

func (n *StaticNode) newChild(name string) *staticEntry {
	p := n.dir + "/" + name
	for _, e := range n.entries {
		if e.path == p { // named, too
			n.children[name] = e
			return e
		}
	}
	e := n.entry(strings.TrimSuffix(n.Directory, "/")+"/"+name, p)
	e.child = true
	n.children[name] = e
	// The directory's entries are behind the named ones, sorted.
	at := len(n.Names)
	i, _ := slices.BinarySearchFunc(n.entries[at:], e, func(a, b *staticEntry) int {
		return strings.Compare(string(a.task.ID), string(b.task.ID))
	})
	n.entries = slices.Insert(n.entries, at+i, e)
	return e
}

// exists looks for the cgroup where it was last, then elsewhere.
func (n *StaticNode) exists(e *staticEntry) bool {
	if e.child {
		return e.seen == n.round
	}
	found := false
	for i := range n.mounts.list {
		h := (e.h + i) % len(n.mounts.list)
		ok, err := n.mounts.exists(h, e.path)
		if err != nil {
			n.problem("a cgroup cannot be looked at", string(e.task.ID), err)
		}
		if ok {
			e.h, found = h, true
			break
		}
	}
	switch {
	case !found && e.state != missing:
		e.state = missing
		n.log.Warn("a task's cgroup does not exist in any hierarchy; the task is skipped", "task", e.task.ID)
	case found && e.state == missing:
		e.state = present
		n.log.Info("a task's cgroup exists now", "task", e.task.ID)
	case found:
		e.state = present
	}
	return found
}

// populated reports whether there is a process in the cgroup or below it, in
// any hierarchy.
func (n *StaticNode) populated(e *staticEntry) bool {
	for i := range n.mounts.list {
		h := (e.h + i) % len(n.mounts.list)
		ok, err := n.populatedIn(h, e.path)
		if err != nil && !gone(err) {
			n.problem("cannot see whether a cgroup has processes", string(e.task.ID), err)
		}
		if ok {
			e.h = h
			return true
		}
	}
	return false
}

func (n *StaticNode) populatedIn(h int, p string) (bool, error) {
	if n.mounts.list[h].unified {
		// The root has no cgroup.events.
		if ok, err := n.mounts.populated(h, p); err == nil {
			return ok, nil
		}
	}
	ok, err := n.mounts.processes(h, p, func(int) bool { return true })
	if ok || err != nil {
		return ok, err
	}
	var below []string
	if err := n.mounts.subdirs(h, p, func(name []byte) { below = append(below, p+"/"+string(name)) }); err != nil {
		return false, err
	}
	for _, b := range below {
		if ok, err := n.populatedIn(h, b); ok || err != nil && !gone(err) {
			return ok, err
		}
	}
	return false, nil
}

// problem warns once of what is wrong with a cgroup.
func (n *StaticNode) problem(message, cgroup string, err error) {
	if key := message + "\x00" + cgroup; !n.problems[key] {
		n.problems[key] = true
		n.log.Warn(message, "cgroup", cgroup, "error", err)
	}
}
