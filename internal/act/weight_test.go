package act

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/proc"
)

// childWeigh is an agent that starts, and ends, when it is told to, and prints its nice
// value each time.
func childWeigh(args []string) error {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	a := New("/")
	if err := a.Start(Options{StateDir: args[0]}); err != nil {
		return err
	}
	a.begin()
	nice, err := syscall.Getpriority(prioProcess, 0)
	if err != nil {
		return err
	}
	fmt.Println(20 - nice)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	// What a dry run gives back is raised again after it, until there is nobody who decides.
	a.SetOptions(Options{StateDir: args[0], DryRun: true})
	a.SetOptions(Options{StateDir: args[0]})
	again, err := syscall.Getpriority(prioProcess, 0)
	if err != nil {
		return err
	}
	if again != nice {
		return fmt.Errorf("nice %d after a dry run", 20-again)
	}
	a.KeepOwners(nil)
	if nice, err = syscall.Getpriority(prioProcess, 0); err != nil {
		return err
	}
	fmt.Println(20-nice, len(a.Leases()))
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	return a.Close()
}

// The agent raises the weight of its cgroup if that is its own and has not more, and its priority
// if it is shared.
func TestOwnWeight(t *testing.T) {
	for name, shared := range map[string]bool{"own": false, "shared": true, "more": false} {
		t.Run(name, func(t *testing.T) {
			c := hosttest.NewCgroup(t, nil, "weight-"+name)
			tree, err := cgroup.FS{}.Tree()
			if err != nil {
				t.Fatal(err)
			}
			control, err := tree.Control(c.Path)
			if err != nil {
				t.Fatal(err)
			}
			defer control.Close()
			knob, raised := cgroup.CPUSharesV1, "4096"
			if tree.V1("cpu") == "" {
				knob, raised = cgroup.CPUWeightV2, "400"
			}
			weight := func() string {
				value, err := control.Get(knob)
				if err != nil {
					t.Fatal(err)
				}
				return value
			}
			if name == "more" {
				if err := control.Set(knob, raised+"0"); err != nil {
					t.Fatal(err)
				}
			}
			before := weight()

			cmd := child(t, "weigh", filepath.Join(t.TempDir(), "state"))
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill() // it has ended, but for a failure
				_ = cmd.Wait()
			})
			c.Add(cmd.Process.Pid)
			if shared {
				c.Start("sleep")
			}
			line := func() {
				if _, err := io.WriteString(in, "go\n"); err != nil {
					t.Fatal(err)
				}
			}
			line()
			lines := bufio.NewReader(out)
			nice, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			inherited, err := syscall.Getpriority(prioProcess, 0)
			if err != nil {
				t.Fatal(err)
			}
			wantWeight, wantNice := raised, strconv.Itoa(20-inherited)
			if name == "more" {
				wantWeight = before
			}
			if shared {
				wantWeight = before
				if inherited == 20 {
					wantNice = strconv.Itoa(ownNice)
				}
			}
			if got := weight(); got != wantWeight {
				t.Errorf("the weight is %s, want %s", got, wantWeight)
			}
			if nice = strings.TrimSpace(nice); nice != wantNice {
				t.Errorf("the nice value is %s, want %s", nice, wantNice)
			}
			line()
			if nice, err = lines.ReadString('\n'); err != nil || nice != fmt.Sprintln(20-inherited, 0) {
				t.Errorf("without allocators it has nice and leases %q, %v", nice, err)
			}
			if got := weight(); got != before {
				t.Errorf("without allocators the weight is %s, was %s", got, before)
			}
			line()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if got := weight(); got != before {
				t.Errorf("the weight is %s afterwards, was %s", got, before)
			}
		})
	}
}

func TestCPUCgroup(t *testing.T) {
	hybrid := []proc.Cgroup{
		{Controllers: []string{"cpuset"}, Path: "/a"}, {Controllers: []string{"cpu", "cpuacct"}, Path: "/b"},
		{Controllers: []string{"name=systemd"}, Path: "/c"}, {Path: "/d:e"},
	}
	for _, test := range []struct {
		list []proc.Cgroup
		v1   bool
		want string
	}{
		{hybrid, true, "/b"},
		{hybrid, false, "/d:e"},
		{hybrid[:1], true, ""},
		{hybrid[:3], false, ""},
		{nil, false, ""},
	} {
		if path := cpuCgroup(test.list, test.v1); path != test.want {
			t.Errorf("%v, v1 %t: %q, want %q", test.list, test.v1, path, test.want)
		}
	}
}
