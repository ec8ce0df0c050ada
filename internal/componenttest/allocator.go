package componenttest

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/owca-project/owca"
)

// checkAllocation says what is wrong with the form of an allocation. Whether a host takes the
// value is not an allocator's business alone.
func checkAllocation(kind owca.AllocationKind, a owca.Allocation) error {
	if !slices.Contains(owca.AllocationKinds, kind) {
		return errors.New("unknown kind")
	}
	if len(a.Reason) > 1000 {
		return fmt.Errorf("a reason of %d bytes, which is in every line of the log", len(a.Reason))
	}
	set := 0
	for _, is := range []bool{a.Number != 0, a.Text != "", a.IO != nil, a.RDT != nil} {
		if is {
			set++
		}
	}
	switch {
	case a.Release && set > 0:
		return errors.New("a release that has a value")
	case a.Release:
		return nil
	case set > 1:
		return errors.New("more than one value")
	case math.IsNaN(a.Number) || math.IsInf(a.Number, 0) || a.Number < 0:
		return fmt.Errorf("%v is no amount", a.Number)
	}
	text, number := a.Text != "", a.Text == "" && a.IO == nil && a.RDT == nil
	switch kind {
	case owca.CPUQuota, owca.CPUShares, owca.CPUBurst:
		if !number {
			return errors.New("not a Number")
		}
	case owca.CPUIdle:
		if !number || a.Number != 0 && a.Number != 1 {
			return errors.New("neither 0 nor 1")
		}
	case owca.IOWeight:
		if !number || a.Number < 1 || a.Number > 10000 {
			return errors.New("not a Number of 1 to 10000")
		}
	case owca.CPUSetCPUs, owca.CPUSetMems:
		if !text {
			return errors.New("not a Text")
		}
	case owca.MemoryHigh, owca.MemoryLow:
		if !number && a.Text != "max" {
			return errors.New(`neither a Number nor "max"`)
		}
	case owca.IOMax:
		if a.IO == nil {
			return errors.New("no IO")
		}
	case owca.RDTGroup:
		if a.RDT == nil {
			return errors.New("no RDT")
		}
	}
	return nil
}
