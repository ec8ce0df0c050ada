package perf

import (
	"fmt"
	"os"
	"testing"

	"github.com/owca-project/owca/internal/hosttest"
)

// childVariable names the directory of a cgroup that the test binary, started
// again as another user, is to count.
const childVariable = "OWCA_PERF_TEST_CHILD"

func TestMain(m *testing.M) {
	hosttest.RunLoad()
	if dir := os.Getenv(childVariable); dir != "" {
		fmt.Println(countAsChild(dir))
		os.Exit(0)
	}
	os.Exit(m.Run())
}
