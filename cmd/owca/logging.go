package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
)

// The original has six levels; slog has four.
const (
	levelTrace    = slog.LevelDebug - 4
	levelCritical = slog.LevelError + 4
)

var levels = map[string]slog.Level{
	"trace": levelTrace, "debug": slog.LevelDebug, "info": slog.LevelInfo,
	"warning": slog.LevelWarn, "warn": slog.LevelWarn, "error": slog.LevelError, "critical": levelCritical,
}

// logComponents are what a level can be set for: the values of the attribute
// "component" of the agent's log lines.
var logComponents = []string{"run", "discover", "measure", "detect", "decide", "act", "store", "config"}

// logLevels are the levels by component; "" is for the others.
type logLevels map[string]slog.Level

// set takes "level" or "component:level". The original's module names (owca,
// wca, owca.kafka, …) are taken, too: they were Python modules, so they set
// the level of everything.
func (l logLevels) set(spec string) error {
	component, name, found := strings.Cut(spec, ":")
	if !found {
		component, name = "", spec
	}
	level, ok := levels[strings.ToLower(strings.TrimSpace(name))]
	if !ok {
		return fmt.Errorf("log level %q is not known: use trace, debug, info, warning, error or critical", name)
	}
	switch {
	case component == "owca", component == "wca", strings.HasPrefix(component, "owca."), strings.HasPrefix(component, "wca."):
		component = ""
	case component != "" && !slices.Contains(logComponents, component):
		return fmt.Errorf("log component %q is not known: use %s", component, strings.Join(logComponents, ", "))
	}
	l[component] = level
	return nil
}

// logLevelsOf joins the levels of a configuration and of the command line,
// which wins.
func logLevelsOf(file map[string]string, flags []string) (logLevels, error) {
	l := logLevels{}
	for _, component := range slices.Sorted(maps.Keys(file)) {
		if err := l.set(component + ":" + file[component]); err != nil {
			return nil, fmt.Errorf("loggers: %w", err)
		}
	}
	for _, f := range flags {
		if err := l.set(f); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// logHandler filters by the attribute "component". The levels can be replaced
// while it is in use.
type logHandler struct {
	slog.Handler
	levels *atomic.Pointer[logLevels]
	own    string // component of this handler, "" = not known yet
}

func newLogHandler(w io.Writer, levels logLevels) *logHandler {
	h := &logHandler{levels: new(atomic.Pointer[logLevels])}
	h.levels.Store(&levels)
	h.Handler = slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: levelTrace, // filtered by Handle
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.LevelKey {
				switch a.Value.Any().(slog.Level) {
				case levelTrace:
					a.Value = slog.StringValue("TRACE")
				case levelCritical:
					a.Value = slog.StringValue("CRITICAL")
				}
			}
			return a
		},
	})
	return h
}

func (h *logHandler) level(component string) slog.Level {
	l := *h.levels.Load()
	if v, ok := l[component]; ok {
		return v
	}
	return l[""] // slog's zero level is info
}

// Enabled lets everything through that some component wants: the component is
// only known in Handle.
func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	if h.own != "" {
		return level >= h.level(h.own)
	}
	for _, l := range *h.levels.Load() {
		if level >= l {
			return true
		}
	}
	return level >= h.level("")
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	component := h.own
	if component == "" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "component" {
				component = a.Value.String()
			}
			return component == ""
		})
	}
	if r.Level < h.level(component) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		if a.Key == "component" {
			n.own = a.Value.String()
		}
	}
	n.Handler = h.Handler.WithAttrs(attrs)
	return &n
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	n := *h
	n.Handler = h.Handler.WithGroup(name)
	return &n
}
