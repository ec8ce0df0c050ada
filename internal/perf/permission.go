package perf

import (
	"errors"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// withoutPMU returns why an event cannot be opened: not for want of permission,
// which the kernel looks at first (perf_event_open, kernel/events/core.c), if
// nobody may count it because the CPUs have no PMU.
func withoutPMU(e *Event, err error) error {
	if !errors.Is(err, fs.ErrPermission) || !ofCores(e) {
		return err
	}
	if pmu := probePMU(); errors.Is(pmu, errors.ErrUnsupported) {
		return pmu
	}
	return err
}

// ofCores says whether an event is of the PMU that cores have or not, rather
// than of a device that is there.
func ofCores(e *Event) bool {
	return !slices.ContainsFunc(e.Encodings, func(enc Encoding) bool {
		switch enc.Attr.Type {
		case unix.PERF_TYPE_HARDWARE, unix.PERF_TYPE_HW_CACHE, unix.PERF_TYPE_RAW:
			return false
		}
		return true
	})
}

// probePMU tries what everybody may up to kernel.perf_event_paranoid 2: to count
// the cycles of the calling thread in user mode. Nil means that the CPUs have a
// PMU, [errors.ErrUnsupported] that they have none; other errors don't tell.
func probePMU() error {
	fd, err := openEvent(unix.PerfEventAttr{
		Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_CPU_CYCLES,
		Bits: unix.PerfBitDisabled | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}, 0, -1, -1, 0)
	if err != nil {
		return err
	}
	_ = unix.Close(fd) // it never counted
	return nil
}
