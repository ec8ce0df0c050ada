package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/hosttest"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode fs.FileMode, data []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		return name
	}
	text := []byte("runner: !X\n")
	good := write("good", 0o644, text)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{good, link, write("private", 0o600, text), write("exact", 0o644, bytes.Repeat([]byte{' '}, 4<<20))} {
		if data, err := config.ReadFile(name); err != nil || name != filepath.Join(dir, "exact") && !bytes.Equal(data, text) {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, want string }{
		{write("others", 0o646, text), "everybody can write it: chmod go-w others"},
		{write("all", 0o666, text), "everybody can write it: chmod go-w all"},
		{write("large", 0o644, make([]byte, 4<<20+1)), "the file has more than 4194304 bytes, which is no configuration"},
		{fifo, "not a regular file"},
		{dir, "not a regular file"},
		{"/dev/zero", "not a regular file"},
	} {
		if _, err := config.ReadFile(tt.name); err == nil || err.Error() != tt.name+": "+tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := config.ReadFile(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestReadFileOfOthers(t *testing.T) {
	hosttest.Need(t, "root")
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		uid, gid int
		mode     fs.FileMode
		want     string
	}{
		{0, 0, 0o664, ""},
		{0, 12345, 0o644, ""},
		{0, 12345, 0o664, "group 12345 can write it: chmod g-w file"},
		{12345, 0, 0o600, "it belongs to user 12345, who could change it (expected root or user 0): chown root file"},
	} {
		if err := errors.Join(os.Chown(name, tt.uid, tt.gid), os.Chmod(name, tt.mode)); err != nil {
			t.Fatal(err)
		}
		got := ""
		if _, err := config.ReadFile(name); err != nil {
			got = strings.TrimPrefix(err.Error(), name+": ")
		}
		if got != tt.want {
			t.Errorf("%s: %s", fmt.Sprint(tt), got)
		}
	}
}
