package act

import (
	"errors"
	"fmt"
	"testing"

	"github.com/owca-project/owca/internal/resctrl"
)

// absentGroups are Groups of a host without resctrl.
type absentGroups struct{ *memoryGroups }

func (absentGroups) Info() *resctrl.Info { return nil }
func (absentGroups) Err() error          { return fmt.Errorf("resctrl: %w", errors.ErrUnsupported) }

// TestActorGroupDefaultsAbsent: where there is no resctrl, all of it is no complaint; a part
// of it is.
func TestActorGroupDefaultsAbsent(t *testing.T) {
	for text, want := range map[string]bool{"": false, "L3:0=7f": true} {
		t.Run(text, func(t *testing.T) {
			r, g, _ := rdtRig(t, func(*Options) {})
			o := r.options()
			o.DefaultL3, o.DefaultMB = &text, new(string)
			r.actor.SetOptions(o)
			r.actor.SetGroups(absentGroups{g})
			if _, told := r.actor.told["rdt defaults"]; told != want {
				t.Errorf("told %v, want %v", told, want)
			}
			r.actor.SetGroups(g) // it is mounted
			if !r.actor.rdt.defaultsDone {
				t.Error("not set when there is resctrl")
			}
			r.close()
		})
	}
}
