package store

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/owca-project/owca"
)

// Filter passes some of the metrics on to other storages, one after the other;
// one that fails does not keep the metrics from the next. Whoever made those
// storages starts and closes them.
//
// It is not an owca.NonBlocking, whatever its storages are: a marker cannot
// depend on them.
type Filter struct {
	Storages []owca.Storage `yaml:"storages" required:"true" help:"Where metrics go."`
	Filter   []string       `yaml:"filter" help:"Names of the metrics to pass on, this agent's or the original's; patterns as in file names (*, ?, [a-z]). null: all."`

	passed  []owca.Metric
	verdict map[*owca.Desc]bool
}

// maxVerdicts bounds what is remembered of Descs, which plugins may make anew.
const maxVerdicts = 10000

// NewFilter returns a Filter with the defaults.
func NewFilter() *Filter { return &Filter{} }

// Validate checks the patterns.
func (f *Filter) Validate() error {
	var errs []error
	if len(f.Storages) == 0 {
		errs = append(errs, &fieldError{"storages", "storages is empty: the metrics would go nowhere"})
	}
	for i, s := range f.Storages {
		if s == nil {
			errs = append(errs, &fieldError{"storages", fmt.Sprintf("storages[%d] is null", i)})
		}
	}
	for _, pattern := range f.Filter {
		if _, err := path.Match(pattern, ""); err != nil {
			errs = append(errs, &fieldError{"filter", fmt.Sprintf("%q is not a pattern: a bracket or a backslash is not closed", pattern)})
		}
	}
	return errors.Join(errs...)
}

// Store passes the metrics on. The error joins those of the storages.
func (f *Filter) Store(ctx context.Context, metrics []owca.Metric) error {
	if f.Filter != nil {
		metrics = f.pass(metrics)
	}
	var errs []error
	for _, s := range f.Storages {
		if err := s.Store(ctx, metrics); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// pass returns the metrics that the filter lets through, in a slice that the
// next call uses again.
func (f *Filter) pass(metrics []owca.Metric) []owca.Metric {
	if f.verdict == nil || len(f.verdict) > maxVerdicts {
		f.verdict = make(map[*owca.Desc]bool)
	}
	before := len(f.passed)
	f.passed = f.passed[:0]
	for i := range metrics {
		d := metrics[i].Desc
		ok, known := f.verdict[d]
		if !known {
			ok = f.match(d)
			f.verdict[d] = ok
		}
		if ok {
			f.passed = append(f.passed, metrics[i])
		}
	}
	if n := len(f.passed); n < before {
		clear(f.passed[n:before]) // labels that are gone
	}
	return f.passed
}

func (f *Filter) match(d *owca.Desc) bool {
	if d == nil {
		return false
	}
	for _, pattern := range f.Filter {
		for _, name := range [...]string{d.Name, d.Original} {
			// Validate has seen the error.
			if ok, err := path.Match(pattern, name); err == nil && ok && name != "" {
				return true
			}
		}
	}
	return false
}
