package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/owca-project/owca/internal/run"
)

type versionCommand struct{}

func (versionCommand) Run(io stdio) error {
	_, err := fmt.Fprintln(io.out, buildInfo())
	return err
}

// build is run.Build with a text for people.
type build run.Build

func (b build) String() string {
	s := "owca " + b.Version
	if b.Revision != "" {
		s += " (" + b.Revision + ")"
	}
	return fmt.Sprintf("%s %s %s/%s", s, b.GoVersion, runtime.GOOS, runtime.GOARCH)
}

// buildInfo reads the version that the go command stamped into the binary: the
// module's version where one was installed, the commit where one was built.
func buildInfo() build {
	b := build{Version: "(devel)", GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	modified := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				modified = ", modified"
			}
		}
	}
	if b.Revision != "" {
		b.Revision += modified
	}
	return b
}
