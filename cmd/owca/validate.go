package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/decide"
)

type validateCommand struct {
	Files []string `arg:"" name:"file" help:"Configuration files, and files of rules."`
}

// Help is what --help says beyond the flags.
func (*validateCommand) Help() string {
	return `A file of rules, as config of a StaticAllocator names one, is a list, or a mapping with the field rules. The one that a
configuration names is checked along with it, if it is there.`
}

// Run checks all files, whatever is wrong with the first.
func (c *validateCommand) Run(ctx context.Context, io stdio) error {
	bad := 0
	for _, name := range c.Files {
		if err := validate(ctx, io, name); err != nil {
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

func validate(ctx context.Context, io stdio, name string) error {
	data, err := config.ReadFile(name)
	if err != nil {
		return err
	}
	warn := func(line int, what string) { fmt.Fprintf(io.err, "%s:%d: warning: %s\n", name, line, what) }
	if isRules(data) {
		if config.ShapeOf(data).Empty {
			warn(1, "the file is empty: valid only as a file of rules, without any")
		}
		return checkRules(ctx, name, data)
	}
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
	var errs []error
	for _, p := range c.parts {
		s, ok := p.Value.(*decide.Static)
		if !ok || s.Config == nil {
			continue
		}
		if _, err := os.Stat(*s.Config); errors.Is(err, fs.ErrNotExist) {
			warn(p.Line, "!"+p.Tag+": there is no file "+*s.Config+": until there is, there are no rules in it")
			continue
		}
		errs = append(errs, s.Start(ctx))
	}
	return errors.Join(errs...)
}

// checkRules checks a file of rules as the allocator does.
func checkRules(ctx context.Context, name string, data []byte) error {
	rules, err := parseRules(name, data)
	if err != nil {
		return err
	}
	s := decide.NewStatic(parseRules)
	s.Rules = rules
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
