package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
)

// memory is a Storage that keeps the text of the last batch.
type memory struct {
	text  bytes.Buffer
	err   error
	calls int
}

func (m *memory) Store(ctx context.Context, metrics []owca.Metric) error {
	m.calls++
	if err := ctx.Err(); err != nil {
		return err
	}
	m.text.Reset()
	return errors.Join(m.err, NewEncoder(EncoderOptions{}).Encode(&m.text, metrics, time.Now()))
}

func (m *memory) names(t *testing.T) []string {
	var names []string
	for _, f := range families(t, m.text.Bytes(), Text) {
		names = append(names, f.GetName())
	}
	slices.Sort(names)
	return names
}

func TestFilterConformance(t *testing.T) {
	for name, filter := range map[string][]string{"all": nil, "pattern": {"*"}} {
		t.Run(name, func(t *testing.T) {
			componenttest.Storage(t, func(*testing.T) (owca.Storage, func() componenttest.Samples) {
				m := &memory{}
				return &Filter{Storages: []owca.Storage{&memory{}, m}, Filter: filter}, func() componenttest.Samples {
					return samples(t, m.text.Bytes(), Text)
				}
			})
		})
	}
}

func TestFilter(t *testing.T) {
	tests := []struct {
		filter []string
		want   []string
	}{
		{nil, []string{"owca_platform_cpu_usage_seconds_total", "owca_task_cpu_limit_cores", "owca_task_cpu_usage_seconds_total", "owca_task_memory_numa_bytes", "owca_up"}},
		{[]string{}, nil},
		{[]string{"owca_up", "owca_task_cpu_limit_cores"}, []string{"owca_task_cpu_limit_cores", "owca_up"}},
		{[]string{"owca_*_cpu_usage_*"}, []string{"owca_platform_cpu_usage_seconds_total", "owca_task_cpu_usage_seconds_total"}},
		{[]string{"cpu_usage_per_task", "task_mem_*"}, []string{"owca_task_cpu_usage_seconds_total", "owca_task_memory_numa_bytes"}},
		{[]string{"owca"}, nil},
	}
	for _, tt := range tests {
		m := &memory{}
		f := NewFilter()
		f.Storages, f.Filter = []owca.Storage{m}, tt.filter
		if err := f.Validate(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := f.Store(t.Context(), few()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, m.names(t)); diff != "" {
				t.Errorf("%q: %s", tt.filter, diff)
			}
		}
	}
}

func TestFilterGoesOnAfterAnError(t *testing.T) {
	broken, good := &memory{err: errors.New("broken")}, &memory{}
	f := &Filter{Storages: []owca.Storage{broken, good, broken}}
	if err := f.Store(t.Context(), few()); !errors.Is(err, broken.err) {
		t.Errorf("%v", err)
	}
	if good.calls != 1 || len(good.names(t)) == 0 {
		t.Error("the good one got nothing")
	}
}

func TestFilterValidate(t *testing.T) {
	for _, tt := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "storages is empty"},
		{Filter{Storages: []owca.Storage{nil}}, "storages[0] is null"},
		{Filter{Storages: []owca.Storage{&memory{}}, Filter: []string{"ok", "a[b"}}, `"a[b" is not a pattern`},
	} {
		if err := tt.f.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}

func TestFilterAllocatesNothing(t *testing.T) {
	f := &Filter{Storages: []owca.Storage{discard{}}, Filter: []string{"*cpu*"}}
	ctx, metrics := t.Context(), batch(50)
	if n := testing.AllocsPerRun(10, func() {
		if err := f.Store(ctx, metrics); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type discard struct{}

func (discard) Store(context.Context, []owca.Metric) error { return nil }
