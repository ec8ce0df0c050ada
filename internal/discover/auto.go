package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/owca-project/owca"
)

// AutoNode recognises the tasks of a host by the paths of its cgroups, in any
// of its cgroup hierarchies: systemd's services and scopes, containers, pods,
// and other cgroups that have processes but none below them that have (see the
// package comment). The root cgroup is no task, nor is a cgroup without
// processes, or with none but kernel threads or the agent itself.
//
// The ID of a pod is its uid, that of a container its 64-digit id, behind
// "<ID of the outer container or pod>/" if it is nested; of anything else, and
// of what claims an ID that another cgroup has a better right to, the path.
//
// It walks the tree once and then follows it by inotify: a call costs one
// read(2) as long as nothing happens. Cgroup v1 does not tell when processes
// come and go, so there the cgroups are looked at in turn, all of them once in
// RescanInterval; that a process moved away and left its cgroup empty may be
// seen at the sixth look only. It is used by one goroutine at a time.
type AutoNode struct {
	Per            string        `yaml:"per" enum:"pod,container" help:"what of a Kubernetes or podman pod, or a Mesos task group, is a task: all of it, or each container"`
	Include        []string      `yaml:"include" format:"glob" help:"only cgroups whose path matches one of these patterns; * stands for any text in a component, ** for any number of components; of a pod the path of its directory counts"`
	Exclude        []string      `yaml:"exclude" format:"glob" help:"no cgroups whose path matches one of these patterns"`
	MaxTasks       int           `yaml:"max_tasks" range:"1..100000" help:"most tasks to report; those that were reported before stay, then the first in the order of their ids are taken"`
	RescanInterval time.Duration `yaml:"rescan_interval" range:"1..3600" help:"how often to look again at what the kernel does not notify of: processes in cgroup v1, cgroups beyond the limit of inotify watches"`

	hierarchies func() ([]string, error)
	procfs      string
	now         func() time.Time
	log         *slog.Logger

	include, exclude []glob
	tree             *tree
	tasks            []owca.Task
	over             bool // more than MaxTasks
	claims           map[owca.TaskID]*node
	candidates       []*node
}

// entry is what AutoNode keeps of a cgroup.
type entry struct {
	base   owca.TaskID // the ID it has a claim to
	wanted wanted
	id     owca.TaskID // the ID it gets this time
	labels map[string]string
	task   owca.Task
	listed bool
}

type wanted uint8

const (
	unknown wanted = iota
	yes
	no
)

// NewAuto returns an AutoNode with its defaults. hierarchies returns the
// mount points of all cgroup hierarchies; it is called by Start. procfs is
// where /proc of the host is.
func NewAuto(hierarchies func() ([]string, error), procfs string) *AutoNode {
	return &AutoNode{
		Per:            "pod",
		MaxTasks:       2000,
		RescanInterval: 10 * time.Second,
		hierarchies:    hierarchies,
		procfs:         procfs,
		now:            time.Now,
	}
}

// Validate checks the patterns.
func (n *AutoNode) Validate() error {
	_, err := parseGlobs("include", n.Include)
	_, err2 := parseGlobs("exclude", n.Exclude)
	return errors.Join(err, err2)
}

// Start reads the whole tree. Without any cgroup hierarchy it returns an error
// that wraps [errors.ErrUnsupported].
func (n *AutoNode) Start(ctx context.Context) error {
	var err error
	if n.include, err = parseGlobs("include", n.Include); err != nil {
		return err
	}
	if n.exclude, err = parseGlobs("exclude", n.Exclude); err != nil {
		return err
	}
	dirs, err := n.hierarchies()
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	m, err := openMounts(dirs)
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	if n.log == nil {
		n.log = slog.With("component", "discover")
	}
	n.claims = make(map[owca.TaskID]*node)
	n.tree = newTree(m, n.procfs, n.RescanInterval, n.enter, n.log)
	if _, err := n.Tasks(ctx); err != nil {
		return errors.Join(err, n.Close())
	}
	return nil
}

// Close gives the watches back.
func (n *AutoNode) Close() error {
	if n.tree == nil {
		return nil
	}
	err := n.tree.close()
	n.tree = nil
	return err
}

// Tasks implements owca.Node. As long as nothing has changed it returns the
// same slice. The tasks are sorted by ID.
func (n *AutoNode) Tasks(ctx context.Context) ([]owca.Task, error) {
	if n.tree == nil {
		return nil, errors.New("discover: not started")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	if err := n.tree.update(ctx, n.now()); err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	if n.tree.changed {
		n.tree.changed = false
		n.rebuild()
	}
	return n.tasks, nil
}

// enter keeps the walk out of what is excluded as a whole.
func (n *AutoNode) enter(path string) bool {
	for _, g := range n.exclude {
		if g.whole() && g.match(path) {
			return false
		}
	}
	return true
}

func (n *AutoNode) rebuild() {
	clear(n.claims)
	n.candidates = n.candidates[:0]
	for _, c := range n.tree.nodes {
		if !n.isTask(c) || !n.wants(c) {
			c.entry.listed = false
			continue
		}
		n.candidates = append(n.candidates, c)
		n.claim(c)
	}
	list := n.limit()
	slices.SortFunc(list, func(a, b *node) int { return cmp.Compare(a.entry.id, b.entry.id) })
	n.tasks = make([]owca.Task, len(list))
	for i, c := range list {
		n.tasks[i] = n.task(c)
	}
	clear(n.candidates) // hold no removed cgroup
}

func (n *AutoNode) isTask(c *node) bool {
	switch c.id.class {
	case plain:
		return c.live && c.below == 0
	case pod:
		return c.live && c.below == 0 || c.below > 0 && n.Per == "pod"
	case unit:
		return c.live
	case container:
		return c.live && !n.isPart(c)
	}
	return false
}

// isPart: the container belongs to the task that is around it.
func (n *AutoNode) isPart(c *node) bool {
	return n.Per == "pod" && (c.parent.id.class == pod || c.id.part)
}

func (n *AutoNode) wants(c *node) bool {
	if c.entry.wanted == unknown {
		c.entry.wanted = no
		if (len(n.include) == 0 || anyMatch(n.include, c.path)) && !anyMatch(n.exclude, c.path) {
			c.entry.wanted = yes
		}
	}
	return c.entry.wanted == yes
}

// claim gives c the ID that it has a claim to. Of two with the same claim the
// system's wins over a user's, who can name the cgroups below his own as he
// likes, then the first path.
func (n *AutoNode) claim(c *node) {
	c.entry.id = n.base(c)
	other := n.claims[c.entry.id]
	if other == nil {
		n.claims[c.entry.id] = c
		return
	}
	if rank(c) < rank(other) || rank(c) == rank(other) && c.path < other.path {
		n.claims[c.entry.id] = c
		c = other
	}
	c.entry.id = owca.TaskID(c.path)
}

func rank(c *node) int {
	if c.id.user != "" {
		return 1
	}
	return 0
}

func (n *AutoNode) base(c *node) owca.TaskID {
	if c.entry.base != "" {
		return c.entry.base
	}
	id := c.id.containerID
	if c.id.class == pod {
		id = c.id.podUID
	}
	if id == "" {
		id = c.path
	} else if outer := n.outer(c); outer != nil && outer.id.class != unit {
		if o := n.base(outer); o[0] == '/' {
			id = c.path // so that whatever begins with "/" is the own path
		} else {
			id = string(o) + "/" + id
		}
	}
	c.entry.base = owca.TaskID(id)
	return c.entry.base
}

// outer is the task in whose cgroup c is nested, nil if it is in none.
func (n *AutoNode) outer(c *node) *node {
	for p := c.parent; p != nil; p = p.parent {
		switch {
		case !p.deep():
		case !n.isPart(p):
			return p
		case p.parent.id.class == pod:
			return p.parent
		}
	}
	return nil
}

// limit keeps MaxTasks of the candidates.
func (n *AutoNode) limit() []*node {
	list := n.candidates
	over := len(list) > n.MaxTasks
	if over {
		slices.SortFunc(list, func(a, b *node) int {
			if a.entry.listed != b.entry.listed {
				if a.entry.listed {
					return -1
				}
				return 1
			}
			return cmp.Compare(a.entry.id, b.entry.id)
		})
		if !n.over {
			n.log.Warn("more tasks than max_tasks; the rest is left out", "tasks", len(list), "max_tasks", n.MaxTasks)
		}
		for _, c := range list[n.MaxTasks:] {
			c.entry.listed = false
		}
		list = list[:n.MaxTasks]
	} else if n.over {
		n.log.Info("no more tasks than max_tasks any more", "tasks", len(list), "max_tasks", n.MaxTasks)
	}
	n.over = over
	for _, c := range list {
		c.entry.listed = true
	}
	return list
}

// task returns what c was the last time, if that is still right.
func (n *AutoNode) task(c *node) owca.Task {
	e := &c.entry
	cgroups := n.cgroups(c)
	if e.task.ID == e.id && slices.Equal(e.task.Cgroups, cgroups) {
		return e.task
	}
	if e.labels == nil {
		e.labels = c.id.labels()
		if outer := n.outer(c); outer != nil {
			e.labels["parent"] = strings.ToValidUTF8(string(n.base(outer)), "\uFFFD")
		}
	}
	e.task = owca.Task{
		ID:      e.id,
		Name:    strings.ToValidUTF8(c.id.name, "\uFFFD"),
		Cgroups: cgroups,
		Labels:  e.labels,
	}
	return e.task
}

func (n *AutoNode) cgroups(c *node) []string {
	if c.id.class == pod && c.below > 0 {
		var list []string
		for _, child := range c.children {
			if child.live {
				list = append(list, child.path)
			}
		}
		slices.Sort(list)
		return list
	}
	if len(c.entry.task.Cgroups) == 1 && c.entry.task.Cgroups[0] == c.path {
		return c.entry.task.Cgroups
	}
	return []string{c.path}
}
