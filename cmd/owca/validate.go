package main

import (
	"errors"
	"fmt"

	"github.com/owca-project/owca/internal/config"
)

type validateCommand struct {
	Files []string `arg:"" name:"file" help:"Configuration files."`
}

// Run checks all files, whatever is wrong with the first.
func (c *validateCommand) Run(io stdio) error {
	bad := 0
	for _, name := range c.Files {
		if err := validate(io, name); err != nil {
			bad++
			var problems config.Errors
			if errors.As(err, &problems) {
				fmt.Fprintln(io.err, problems)
			} else {
				fmt.Fprintf(io.err, "owca: %v\n", err)
			}
			continue
		}
		fmt.Fprintf(io.out, "%s: valid\n", name)
	}
	if bad > 0 {
		return &exitError{exitFailed, fmt.Errorf("%d of %d files cannot be used", bad, len(c.Files))}
	}
	return nil
}

func validate(io stdio, name string) error {
	data, err := config.ReadFile(name)
	if err != nil {
		return err
	}
	warn := func(line int, what string) { fmt.Fprintf(io.err, "%s:%d: warning: %s\n", name, line, what) }
	c, err := decode(data, name, nil, nil, nil, func(p config.Problem) { warn(p.Line, p.Path+": "+p.What) })
	if err != nil {
		return err
	}
	if _, err := logLevelsOf(c.Loggers, nil); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, m := range c.missing() {
		warn(m.line, m.what)
	}
	return nil
}
