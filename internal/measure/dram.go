package measure

import (
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/perf"
)

// dram measures what goes between the sockets and their memory.
type dram struct {
	fs     perf.FS
	uncore *perf.Uncore // nil: not open
	// openErr is why. A host that has no such counters is not asked again;
	// other reasons stand until it is.
	openErr error
	asked   time.Time
	denied  bool // and logged

	now, last []perf.SocketBytes
	at        time.Time // of last
	labels    []string  // by number of socket
}

// append reads the counters and appends what they say. A host without them, or
// a user who may not use them, is no error.
func (d *dram) append(m owca.Measurements, now time.Time) (owca.Measurements, error) {
	if d.uncore == nil {
		if errors.Is(d.openErr, errors.ErrUnsupported) || d.openErr != nil && !platformDue(now, d.asked, platformIdentityPace) {
			return m, d.failed()
		}
		d.asked = now
		if d.uncore, d.openErr = d.fs.OpenUncore(); d.openErr != nil {
			d.uncore = nil
			return m, d.failed()
		}
	}
	err := d.uncore.Refresh()
	if err == nil {
		d.now, err = d.uncore.Read(d.now[:0])
	} else {
		d.now = d.now[:0]
	}
	passed := now.Sub(d.at).Seconds()
	for _, s := range d.now {
		label := platformLabel(&d.labels, s.Socket)
		m = append(m,
			owca.Reading{Desc: owca.PlatformDRAMRead, Label: label, Value: owca.Int(s.Read)},
			owca.Reading{Desc: owca.PlatformDRAMWrite, Label: label, Value: owca.Int(s.Write)})
		i := slices.IndexFunc(d.last, func(l perf.SocketBytes) bool { return l.Socket == s.Socket })
		if i < 0 || passed <= 0 {
			continue
		}
		read, write := float64(s.Read-d.last[i].Read)/passed, float64(s.Write-d.last[i].Write)/passed
		m = append(m,
			owca.Reading{Desc: owca.PlatformDRAMReadRate, Label: label, Value: owca.Float(read)},
			owca.Reading{Desc: owca.PlatformDRAMWriteRate, Label: label, Value: owca.Float(write)},
			owca.Reading{Desc: owca.PlatformDRAMRate, Label: label, Value: owca.Float(read + write)})
	}
	d.now, d.last, d.at = d.last, d.now, now
	return m, err
}

// failed is what of openErr is an error.
func (d *dram) failed() error {
	switch {
	case errors.Is(d.openErr, errors.ErrUnsupported):
		return nil
	case errors.Is(d.openErr, fs.ErrPermission):
		if !d.denied {
			d.denied = true
			slog.Warn("traffic of the sockets with their DRAM is not measured: permission is missing (perf_backend: none turns it off, too)", "component", "measure", "error", d.openErr)
		}
		return nil
	}
	return d.openErr
}

// close closes the counters; append opens them again, and they begin anew.
func (d *dram) close() error {
	if d.uncore == nil {
		return nil
	}
	err := d.uncore.Close()
	d.uncore, d.last = nil, d.last[:0]
	return err
}
