package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/config"
)

// interfaces are what components can be, for the documentation.
var interfaces = []reflect.Type{
	reflect.TypeFor[runner](), reflect.TypeFor[owca.Node](), reflect.TypeFor[owca.Storage](),
	reflect.TypeFor[owca.Detector](), reflect.TypeFor[owca.Allocator](),
}

type componentsCommand struct {
	Tag    string `arg:"" optional:"" help:"Only this component."`
	Format string `default:"list" enum:"list,markdown,json" help:"list (one line each; with TAG its page), markdown or json."`
}

func (c *componentsCommand) Run(io stdio) error {
	registry := config.NewRegistry(components(nil, nil)...)
	docs := registry.Describe(interfaces...)
	if c.Tag != "" {
		tag := strings.TrimPrefix(c.Tag, "!")
		i := slices.IndexFunc(docs, func(d config.ComponentDoc) bool { return strings.EqualFold(d.Tag, tag) })
		if i < 0 {
			hint := "'owca components' lists them"
			if near := registry.Nearest(tag); near != "" {
				hint = "did you mean !" + near + "?"
			}
			return &exitError{exitUsage, fmt.Errorf("no component %q; %s", c.Tag, hint)}
		}
		docs = docs[i : i+1]
		if c.Format == "list" {
			c.Format = "markdown"
		}
	}
	switch c.Format {
	case "json":
		e := json.NewEncoder(io.out)
		e.SetIndent("", "  ")
		return e.Encode(docs)
	case "markdown":
		return config.WriteMarkdown(io.out, docs)
	default:
		return listComponents(io.out, docs)
	}
}

func listComponents(w io.Writer, docs []config.ComponentDoc) error {
	width := 0
	for _, d := range docs {
		width = max(width, len(d.Tag))
	}
	for _, d := range docs {
		kind := strings.Join(d.Implements, ", ")
		if _, err := fmt.Fprintf(w, "!%-*s  %-10s %s\n", width, d.Tag, kind, d.Help); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, "\n'owca components TAG' shows the fields of one.")
	return err
}

type schemaCommand struct{}

func (schemaCommand) Run(io stdio) error {
	_, err := fmt.Fprintf(io.out, "%s\n", config.NewRegistry(components(nil, nil)...).JSONSchema(&configuration{}))
	return err
}
