package run

import (
	"testing"
	"time"
)

func TestGrid(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for _, tc := range []struct {
		name   string
		ends   []int // when each tick ends, ms after start
		begins []int // when the next one begins
		missed []uint64
	}{
		{"on time", []int{10, 110, 299}, []int{100, 200, 300}, []uint64{0, 0, 0}},
		{"ends exactly on the next point", []int{100}, []int{200}, []uint64{1}},
		{"one long tick does not shift the grid", []int{250, 310}, []int{300, 400}, []uint64{2, 0}},
		{"asleep for a day", []int{86_400_050}, []int{86_400_100}, []uint64{864_000}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := grid{next: start, interval: 100 * time.Millisecond}
			for i, end := range tc.ends {
				missed := g.advance(at(end))
				if !g.next.Equal(at(tc.begins[i])) || missed != tc.missed[i] {
					t.Errorf("tick %d ended at %d ms: next at %v with %d missed, want %d ms with %d",
						i, end, g.next.Sub(start), missed, tc.begins[i], tc.missed[i])
				}
			}
		})
	}
}
