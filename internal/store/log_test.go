package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
	"github.com/owca-project/owca/internal/hosttest"
)

func startLog(t *testing.T, l *Log) *Log {
	t.Helper()
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLogConformance(t *testing.T) {
	t.Run("append", func(t *testing.T) {
		componenttest.Storage(t, func(t *testing.T) (owca.Storage, func() componenttest.Samples) {
			l := NewLog()
			l.OutputFilename = filepath.Join(t.TempDir(), "metrics")
			seen := 0
			return startLog(t, l), func() componenttest.Samples {
				text := readFile(t, l.OutputFilename)[seen:]
				seen += len(text)
				return samples(t, text, Text)
			}
		})
	})
	t.Run("overwrite", func(t *testing.T) {
		componenttest.Storage(t, func(t *testing.T) (owca.Storage, func() componenttest.Samples) {
			l := NewLog()
			l.OutputFilename, l.Overwrite = filepath.Join(t.TempDir(), "metrics.prom"), true
			return startLog(t, l), func() componenttest.Samples {
				return samples(t, readFile(t, l.OutputFilename), Text)
			}
		})
	})
}

func TestLogWritesToStandardError(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stderr := os.Stderr
	os.Stderr = w
	defer func() { os.Stderr = stderr }()
	if err := startLog(t, NewLog()).Store(t.Context(), few()); err != nil {
		t.Error(err)
	}
	os.Stderr = stderr
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	if n := len(samples(t, b.Bytes(), Text)); n != len(few()) {
		t.Errorf("%d samples, want %d:\n%s", n, len(few()), b.String())
	}
	// Appending goes with timestamps.
	if !strings.Contains(b.String(), " 1600000000001\n") {
		t.Errorf("no timestamps:\n%s", b.String())
	}
}

func TestLogOverwriteNeedsAFile(t *testing.T) {
	l := NewLog()
	l.Overwrite = true
	err := l.Validate()
	var field interface{ Field() string }
	if !errors.As(err, &field) || field.Field() != "overwrite" || !strings.Contains(err.Error(), "output_filename") {
		t.Errorf("%v", err)
	}
}

func TestLogTimestamps(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		overwrite bool
		include   *bool
		want      bool
	}{{false, nil, true}, {true, nil, false}, {false, &no, false}, {true, &yes, true}} {
		l := NewLog()
		l.OutputFilename, l.Overwrite, l.IncludeTimestamp = filepath.Join(t.TempDir(), "m"), tt.overwrite, tt.include
		startLog(t, l)
		if err := l.Store(t.Context(), few()); err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(readFile(t, l.OutputFilename), []byte(" 1600000000001\n")); got != tt.want {
			t.Errorf("overwrite %v, include_timestamp %v: %v", tt.overwrite, tt.include, got)
		}
	}
}

// Whoever reads sees a whole batch, and may read at all, whatever the umask.
func TestLogOverwriteIsAtomic(t *testing.T) {
	umask := syscall.Umask(0o077)
	defer syscall.Umask(umask)
	dir := t.TempDir()
	l := NewLog()
	l.OutputFilename, l.Overwrite = filepath.Join(dir, "metrics.prom"), true
	// What a killed agent left, even as somebody's link, is not written to.
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, ".metrics.prom.tmp")); err != nil {
		t.Fatal(err)
	}
	startLog(t, l)
	metrics := batch(100)
	if err := l.Store(t.Context(), metrics); err != nil {
		t.Fatal(err)
	}
	want := readFile(t, l.OutputFilename)

	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got, err := os.ReadFile(l.OutputFilename); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d bytes of %d, %v", len(got), len(want), err)
				return
			}
		}
	})
	for range 50 {
		if err := l.Store(t.Context(), metrics); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()

	info, err := os.Stat(l.OutputFilename)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if string(readFile(t, other)) != "precious" {
		t.Error("the link was followed")
	}
	if files, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

func TestLogFollowsRotation(t *testing.T) {
	dir := t.TempDir()
	l := NewLog()
	l.OutputFilename = filepath.Join(dir, "metrics")
	startLog(t, l)
	store := func(n uint64) {
		t.Helper()
		if err := l.Store(t.Context(), []owca.Metric{{Desc: owca.AgentTasks, Value: owca.Int(n), Time: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(name string, want ...uint64) {
		t.Helper()
		var text string
		for _, n := range want {
			text += fmt.Sprintf("# HELP owca_tasks Tasks discovered.\n# TYPE owca_tasks gauge\nowca_tasks %d 1\n", n)
		}
		if got := string(readFile(t, name)); got != text {
			t.Errorf("%s: %q, want %q", name, got, text)
		}
	}
	store(1)
	store(2)
	if err := os.Rename(l.OutputFilename, l.OutputFilename+".1"); err != nil {
		t.Fatal(err)
	}
	store(3)
	holds(l.OutputFilename+".1", 1, 2)
	holds(l.OutputFilename, 3)
	// logrotate's "create"
	if err := os.Rename(l.OutputFilename, l.OutputFilename+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.OutputFilename, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store(4)
	holds(l.OutputFilename+".2", 3)
	holds(l.OutputFilename, 4)
	// "copytruncate"
	if err := os.Truncate(l.OutputFilename, 0); err != nil {
		t.Fatal(err)
	}
	store(5)
	holds(l.OutputFilename, 5)
	if err := os.Remove(l.OutputFilename); err != nil {
		t.Fatal(err)
	}
	store(6)
	holds(l.OutputFilename, 6)
}

func TestLogCannotWrite(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		file      string
		overwrite bool
		is        error
		hint      string
	}{
		{filepath.Join(dir, "none", "x"), false, fs.ErrNotExist, "create its directory"},
		{filepath.Join(dir, "none", "x"), true, fs.ErrNotExist, "create its directory"},
		{dir, false, syscall.EISDIR, ""},
		{dir, true, nil, "not a regular file"},
		{fifo, false, syscall.ENXIO, "nobody reads"},
		{fifo, true, nil, "not a regular file"},
		{link, true, nil, "not a regular file"},
		{"/dev/full/x", false, syscall.ENOTDIR, ""},
	} {
		l := NewLog()
		l.OutputFilename, l.Overwrite = tt.file, tt.overwrite
		err := l.Start(t.Context())
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.hint) || !strings.Contains(err.Error(), tt.file) {
			t.Errorf("%s, overwrite %v: %v", tt.file, tt.overwrite, err)
		}
	}

	l := NewLog()
	l.OutputFilename = "/dev/full"
	startLog(t, l)
	for range 2 {
		if err := l.Store(t.Context(), few()); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room") {
			t.Errorf("/dev/full: %v", err)
		}
	}
}

// inMountNamespace runs f with a small tmpfs at dir that nobody else sees. f
// runs in another goroutine: it does not end the test.
func inMountNamespace(t *testing.T, dir, options string, f func()) {
	t.Helper()
	hosttest.Need(t, "root")
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, and the mount
		// with its namespace.
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Errorf("make / private: %v", err)
			return
		}
		if err := syscall.Mount("owca-test", dir, "tmpfs", 0, options); err != nil {
			t.Errorf("mount: %v", err)
			return
		}
		f()
	}()
	<-done
}

func TestLogFullDisk(t *testing.T) {
	for _, overwrite := range []bool{true, false} {
		t.Run(fmt.Sprintf("overwrite=%v", overwrite), func(t *testing.T) {
			dir := t.TempDir()
			inMountNamespace(t, dir, "size=256k", func() {
				l := NewLog()
				l.OutputFilename, l.Overwrite = filepath.Join(dir, "metrics.prom"), overwrite
				if err := l.Start(t.Context()); err != nil {
					t.Error(err)
					return
				}
				defer l.Close()
				if err := l.Store(t.Context(), few()); err != nil {
					t.Error(err)
				}
				before, err := os.ReadFile(l.OutputFilename)
				if err != nil {
					t.Error(err)
				}
				for range 2 {
					if err := l.Store(t.Context(), batch(100)); !errors.Is(err, syscall.ENOSPC) {
						t.Errorf("2 MB on a disk of 256 KB: %v", err)
					}
					after, err := os.ReadFile(l.OutputFilename)
					if err != nil || !bytes.Equal(after, before) {
						t.Errorf("the file has %d bytes, it had %d; %v", len(after), len(before), err)
					}
				}
				if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
					t.Errorf("left behind: %v, %v", files, err)
				}
				// There is room for less.
				if err := l.Store(t.Context(), few()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestLogReadOnlyFileSystem(t *testing.T) {
	dir := t.TempDir()
	inMountNamespace(t, dir, "ro", func() {
		for _, overwrite := range []bool{true, false} {
			l := NewLog()
			l.OutputFilename, l.Overwrite = filepath.Join(dir, "metrics.prom"), overwrite
			if err := l.Start(t.Context()); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "writable") {
				t.Errorf("overwrite %v: %v", overwrite, err)
			}
		}
	})
}

// A few allocations for asking whether the file is still there, whatever the
// number of metrics.
func TestLogAllocations(t *testing.T) {
	for _, overwrite := range []bool{true, false} {
		l := NewLog()
		l.OutputFilename, l.Overwrite = filepath.Join(t.TempDir(), "m"), overwrite
		startLog(t, l)
		ctx, metrics := t.Context(), batch(50)
		if n := testing.AllocsPerRun(5, func() {
			if err := l.Store(ctx, metrics); err != nil {
				t.Fatal(err)
			}
		}); n > 20 {
			t.Errorf("overwrite %v: %v allocations", overwrite, n)
		}
	}
}
