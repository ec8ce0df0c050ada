package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/owca-project/owca"
)

// Log writes metrics in the Prometheus text format to a file or to standard
// error: the original's LogStorage.
type Log struct {
	OutputFilename   string   `yaml:"output_filename" format:"path" help:"File to write to. null: standard error."`
	Overwrite        bool     `yaml:"overwrite" help:"Replace the file, in one step, by the newest metrics, as node_exporter's textfile collector wants it. false: append to it; a file that was moved away is made again."`
	IncludeTimestamp *bool    `yaml:"include_timestamp" help:"Write the time of each sample. null: if overwrite is false."`
	FilterLabels     []string `yaml:"filter_labels" help:"Write only these labels. Series that become equal are written once; the others count as an error. null: all."`
	Names            string   `yaml:"names" enum:"prometheus,original" help:"Names and units of metrics: this agent's, or those of the original where it had the metric."`

	encoder *Encoder
	file    *os.File // open for appending, or nil
}

// NewLog returns a Log with the defaults.
func NewLog() *Log { return &Log{Names: prometheusNames} }

// fieldError is an error of the configuration that one field is to blame for.
type fieldError struct {
	field string
	what  string
}

func (e *fieldError) Error() string { return e.what }

// Field returns the name of the field.
func (e *fieldError) Field() string { return e.field }

// Validate checks what the fields say together.
func (l *Log) Validate() error {
	if l.Overwrite && l.OutputFilename == "" {
		return &fieldError{"overwrite", "overwrite needs a file: set output_filename"}
	}
	return nil
}

// Start checks that the file can be written.
func (l *Log) Start(context.Context) error {
	timestamps := !l.Overwrite
	if l.IncludeTimestamp != nil {
		timestamps = *l.IncludeTimestamp
	}
	l.encoder = NewEncoder(EncoderOptions{
		OriginalNames: l.Names == originalNames,
		Timestamps:    timestamps,
		Labels:        l.FilterLabels,
	})
	switch {
	case l.OutputFilename == "":
		return nil
	case l.Overwrite:
		switch info, err := os.Lstat(l.OutputFilename); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return l.explain(err)
		case !info.Mode().IsRegular():
			return fmt.Errorf("log storage: %s is not a regular file (%s), which overwrite would replace by one: set output_filename to what it points to, or overwrite to false",
				l.OutputFilename, info.Mode().Type())
		}
		f, err := l.createTemp()
		if err != nil {
			return l.explain(err)
		}
		return errors.Join(f.Close(), os.Remove(f.Name()))
	default:
		return l.explain(l.open())
	}
}

// Close closes the file.
func (l *Log) Close() error {
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

// Store writes the metrics. When it fails the file is as it was before. A
// [*RejectedError] says that some of the metrics are not in the output.
func (l *Log) Store(ctx context.Context, metrics []owca.Metric) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case l.OutputFilename == "":
		return l.explain(l.encoder.Encode(contextWriter{ctx, os.Stderr}, metrics, time.Now()))
	case l.Overwrite:
		return l.explain(l.replace(ctx, metrics))
	default:
		return l.explain(l.append(ctx, metrics))
	}
}

// explain adds the name of the file, and what can be done.
func (l *Log) explain(err error) error {
	var rejected *RejectedError
	if err == nil || errors.As(err, &rejected) {
		return err
	}
	name, hint := l.OutputFilename, ""
	if name == "" {
		name = "standard error"
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = ": create its directory"
	case errors.Is(err, fs.ErrPermission):
		hint = ": let the agent's user write there, or choose another output_filename"
	case errors.Is(err, syscall.EROFS):
		hint = ": choose an output_filename on a writable file system (see ReadWritePaths= of a systemd unit)"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		hint = ": the file is left as it was before; make room, or choose another output_filename"
	case errors.Is(err, syscall.ENXIO):
		hint = ": it is a named pipe that nobody reads"
	}
	return fmt.Errorf("log storage: cannot write %s: %w%s", name, err, hint)
}

// replace writes a temporary file beside the output and renames it.
func (l *Log) replace(ctx context.Context, metrics []owca.Metric) (err error) {
	f, err := l.createTemp()
	if err != nil {
		return err
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	encodeErr := l.encoder.Encode(contextWriter{ctx, f}, metrics, time.Now())
	var rejected *RejectedError
	if encodeErr != nil && !errors.As(encodeErr, &rejected) {
		return encodeErr
	}
	// Readers are other users, whatever the umask says.
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	// What a file system had postponed (NFS, quotas) fails at the latest here.
	err = f.Close()
	name := f.Name()
	f = nil
	if err == nil {
		err = os.Rename(name, l.OutputFilename)
	}
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return encodeErr
}

// createTemp makes the temporary file. Its name is always the same, so that
// those of killed agents don't pile up, and does not end like the output's,
// which may be matched by a pattern as *.prom.
func (l *Log) createTemp() (*os.File, error) {
	dir, base := filepath.Split(l.OutputFilename)
	name := dir + "." + base + ".tmp"
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(name, flags, 0o644)
	if errors.Is(err, fs.ErrExist) {
		// Never opened, as it may be somebody's link to something else.
		if err := os.Remove(name); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(name, flags, 0o644)
	}
	return f, err
}

func (l *Log) open() error {
	// O_NONBLOCK: don't wait for a reader of a named pipe.
	f, err := os.OpenFile(l.OutputFilename, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o644)
	l.file = f
	return err
}

// append adds the metrics to the file, which is made again if it was moved
// away by a log rotation.
func (l *Log) append(ctx context.Context, metrics []owca.Metric) error {
	if l.file != nil {
		if there, err := os.Stat(l.OutputFilename); err == nil || errors.Is(err, fs.ErrNotExist) {
			here, statErr := l.file.Stat()
			if statErr != nil || err != nil || !os.SameFile(here, there) {
				if err := l.Close(); err != nil {
					return err
				}
			}
		}
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	before, err := l.file.Stat()
	if err != nil {
		return err
	}
	err = l.encoder.Encode(contextWriter{ctx, l.file}, metrics, time.Now())
	var rejected *RejectedError
	if err != nil && !errors.As(err, &rejected) && before.Mode().IsRegular() {
		// Half a line would spoil the next one.
		err = errors.Join(err, l.file.Truncate(before.Size()))
	}
	return err
}

// contextWriter fails once its context is done.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(b)
}
