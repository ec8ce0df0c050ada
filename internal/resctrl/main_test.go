package resctrl

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/owca-project/owca/internal/hosttest"
)

// childVariable names what the test binary, started again, is to do.
const childVariable = "OWCA_RESCTRL_TEST_CHILD"

func TestMain(m *testing.M) {
	hosttest.RunLoad()
	if name := os.Getenv(childVariable); name != "" {
		do, ok := children[name]
		if !ok {
			fmt.Fprintln(os.Stderr, "no child", name)
			os.Exit(2)
		}
		if err := do(strings.Fields(os.Getenv(childVariable + "_ARGS"))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// publicBinary is a copy of the test binary that every user may start: that itself, or
// what it is mounted from, may be root's alone.
func publicBinary(t *testing.T) string {
	t.Helper()
	root, err := os.Stat("/")
	if err != nil {
		t.Fatal(err)
	}
	if mode := root.Mode().Perm(); mode&1 == 0 {
		if os.Getenv("OWCA_TEST_VM") == "" {
			t.Skipf("ordinary users may not go through the root directory: %v", mode)
		}
		if err := os.Chmod("/", 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Chmod("/", mode); err != nil {
				t.Error(err)
			}
		})
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "test")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// asChild runs one of children, in a process of this binary with these attributes; it
// fails the test with what that returned.
func asChild(t *testing.T, binary string, attr *syscall.SysProcAttr, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), childVariable+"="+name, childVariable+"_ARGS="+strings.Join(args, " "))
	cmd.SysProcAttr = attr
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}

// openHost opens the host's resctrl, which has these features (see hosttest.Resctrl).
func openHost(t testing.TB, features ...string) *Tree {
	t.Helper()
	hosttest.Resctrl(t, features...)
	tree, err := openMounted()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return tree
}

func openMounted() (*Tree, error) {
	m, err := FS{Root: "/"}.Mounted()
	if err != nil {
		return nil, err
	}
	return m.Open()
}

// wantError fails unless err is target, and an Error that contains all texts.
func wantError(t testing.TB, err, target error, texts ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("error %v, want %v", err, target)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}
