package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/owca-project/owca/internal/proc"
)

type checkCommand struct {
	JSON     bool   `help:"Print a JSON array of objects with section, name, outcome (\"yes\", \"not supported\" or \"could not tell\"), detail and advice, all strings."`
	HostRoot string `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Run succeeds whatever the host lacks: that is an answer, too.
func (c *checkCommand) Run(io stdio) error {
	if info, err := os.Stat(c.HostRoot); err != nil || !info.IsDir() {
		return &exitError{exitUsage, fmt.Errorf("--host-root %s is not a directory", c.HostRoot)}
	}
	list := newChecker(c.HostRoot).all()
	var text []byte
	if c.JSON {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false) // advice has ">" in it
		e.SetIndent("", "  ")
		if err := e.Encode(list); err != nil {
			return err
		}
		text = b.Bytes()
	} else {
		text = appendFindings(nil, list)
	}
	if _, err := io.out.Write(text); err != nil {
		return fmt.Errorf("writing what was found: %w", err)
	}
	return nil
}

// outcome is one of the three of a probe.
type outcome string

// The outcomes.
const (
	yes          outcome = "yes"
	notSupported outcome = "not supported"
	couldNotTell outcome = "could not tell"
)

// finding is what one probe found. The keys of its JSON, the outcomes, and the
// names and sections once in use don't change; details and advice are for
// people.
type finding struct {
	Section string  `json:"section"`
	Name    string  `json:"name"`
	Outcome outcome `json:"outcome"`
	Detail  string  `json:"detail"`
	Advice  string  `json:"advice"` // "" = nothing to do
}

// checker looks at one host: files below root, system calls on the kernel that
// runs it.
type checker struct {
	root string
	proc proc.FS // the host's
	self proc.FS // of this process: what it may do
}

func newChecker(root string) *checker {
	return &checker{root: root, proc: proc.FS{Root: root}, self: proc.FS{Root: "/"}}
}

// all runs every probe.
func (c *checker) all() []finding {
	var list []finding
	for _, s := range []struct {
		name   string
		probes []func() []finding
	}{
		{"host", []func() []finding{c.kernel, c.cpus, c.numa}},
		{"agent", []func() []finding{c.user, c.capabilities, c.fileLimit}},
		{"cgroups", []func() []finding{c.cgroups}},
		{"waiting", []func() []finding{c.hostPressure, c.cgroupPressure, c.runQueue}},
		{"perf", []func() []finding{c.perfParanoid, c.perfEvent, c.pmu, c.perfBackends}},
		{"bpf", []func() []finding{c.bpf, c.btf}},
		{"resctrl", []func() []finding{c.resctrl}},
		{"limits", []func() []finding{c.limits, c.journal}},
	} {
		for _, probe := range s.probes {
			for _, f := range probe() {
				f.Section = s.name
				list = append(list, f)
			}
		}
	}
	return list
}

// one is the result of probes that find one thing.
func one(name string, o outcome, detail, advice string) []finding {
	return []finding{{Name: name, Outcome: o, Detail: detail, Advice: advice}}
}

// failed is the result of a probe that ended with an error. What the kernel
// does not know is not supported; anything else tells nothing.
func failed(name string, err error, advice string) []finding {
	o := couldNotTell
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrNotExist) {
		o = notSupported
	}
	return one(name, o, err.Error(), advice)
}

func (c *checker) path(name string) string { return filepath.Join(c.root, name) }

// read reads a file of proc or sysfs. It is fs.ErrNotExist only if that is
// mounted: below the wrong root everything would seem not to be supported.
func (c *checker) read(name string) (string, error) {
	b, err := os.ReadFile(c.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		err = c.missing(err)
	}
	return strings.TrimSpace(string(b)), err
}

// missing returns err, or another error if proc and sysfs are missing below
// the root, too.
func (c *checker) missing(err error) error {
	for _, name := range []string{"proc/version", "sys/kernel"} {
		if _, statErr := os.Stat(c.path(name)); statErr != nil {
			return fmt.Errorf("%s is not the root of a host with /proc and /sys mounted: no %s", c.root, name)
		}
	}
	return err
}

// appendFindings appends a table for people: sections, lines, and below those
// that need it what to do.
func appendFindings(b []byte, list []finding) []byte {
	names, outcomes := 0, len(couldNotTell)
	for i := range list {
		names = max(names, cleanWidth(list[i].Name))
	}
	section := ""
	for i := range list {
		f := &list[i]
		if f.Section != section {
			if section = f.Section; i > 0 {
				b = append(b, '\n')
			}
			b = append(append(b, section...), '\n')
		}
		b = append(b, "  "...)
		b = appendSpaces(appendClean(b, f.Name), names-cleanWidth(f.Name)+2)
		b = appendSpaces(append(b, f.Outcome...), outcomes-len(f.Outcome)+2)
		b = append(trimRight(appendClean(b, f.Detail)), '\n')
		if f.Advice != "" {
			b = appendSpaces(b, 2+names+2)
			b = append(appendClean(append(b, "→ "...), f.Advice), '\n')
		}
	}
	return b
}
