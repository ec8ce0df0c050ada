package act

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/owca-project/owca/internal/hosttest"
)

// childVariable names what the test binary, started again, is to do.
const childVariable = "OWCA_ACT_TEST_CHILD"

// children are what it can.
func children() map[string]func(args []string) error {
	return map[string]func([]string) error{
		"guard": childGuard,
		"agent": childAgent,
		"full":  childFullDisk,
		"hold":  childHold,
		"claim": childClaim,
		"weigh": childWeigh,
		"files": childFewFiles,
	}
}

func TestMain(m *testing.M) {
	hosttest.RunLoad()
	if line, ok := os.LookupEnv(childVariable); ok {
		args := strings.Fields(line)
		if err := children()[args[0]](args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is a process of the test binary that does one of children.
func child(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	return cmd
}

// fewerInVM is how many of n sequences are played: in a VM everything takes some 20 times as
// long, and what is pure was played on a real machine.
func fewerInVM(n int) int {
	if os.Getenv("OWCA_TEST_VM") == "" {
		return n
	}
	return max(1, n/8)
}
