package act

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// childGuard is a guardian of the journal in args[0].
func childGuard(args []string) error {
	_, err := Guard(context.Background(), os.Stdin, "/", args[0])
	return err
}

// childAgent takes leases on the cpu time of the cgroup args[1] in the journal args[0], with a
// guardian, and waits to be killed.
func childAgent(args []string) error {
	j, _, err := OpenJournal(args[0])
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Setenv(childVariable, "guard "+args[0]); err != nil {
		return err
	}
	if _, err := StartGuardian([]string{exe}); err != nil {
		return err
	}
	tree, err := cgroup.FS{Root: "/"}.Tree()
	if err != nil {
		return err
	}
	if err := leaseAndSet(j, tree, args[1], cgroup.CPUMax, "50000 100000"); err != nil {
		return err
	}
	fmt.Println("leased")
	select {}
}

// leaseAndSet is what an agent does.
func leaseAndSet(j *Journal, tree *cgroup.Tree, path string, k cgroup.Knob, value string) error {
	c, err := tree.Control(path)
	if err != nil {
		return err
	}
	defer c.Close()
	old, err := c.Get(k)
	if err != nil {
		return err
	}
	change := Change{Target: Target{Cgroup: path, Knob: k}, ID: c.ID(k), Old: old, New: value, Owner: "test", For: owca.TaskID(path)}
	if err := j.Take(time.Now(), []Change{change}); err != nil {
		return err
	}
	return c.Set(k, value)
}

func getKnob(t testing.TB, path string, k cgroup.Knob) string {
	t.Helper()
	tree, err := cgroup.FS{Root: "/"}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	c, err := tree.Control(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	value, err := c.Get(k)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// within waits until ok.
func within(t testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}

func TestGuardianRestoresAfterKill(t *testing.T) {
	group := hosttest.NewCgroup(t, nil, "guardian")
	dir := t.TempDir()
	first := getKnob(t, group.Path, cgroup.CPUMax)
	cmd := child(t, "agent", dir, group.Path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "leased\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if is := getKnob(t, group.Path, cgroup.CPUMax); is != "50000 100000" {
		t.Fatalf("cpu.max %s", is)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	took := within(t, 30*time.Second, "restored", func() bool { return getKnob(t, group.Path, cgroup.CPUMax) == first })
	t.Logf("cpu.max 50000 100000 → %s %v after SIGKILL", first, took)
	_ = cmd.Wait() // killed
	within(t, 30*time.Second, "the journal is removed, and the lock free", func() bool {
		leases, holder, _, err := ReadJournal(dir)
		_, statErr := os.Stat(filepath.Join(dir, journalFile))
		return err == nil && len(leases) == 0 && holder.PID == 0 && errors.Is(statErr, os.ErrNotExist)
	})
}

func TestGuardianIsDismissed(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	defer j.Close()
	g := startTestGuardian(t, dir)
	if !g.Alive() {
		t.Error("it does not run")
	}
	if err := g.Dismiss(); err != nil {
		t.Error(err)
	}
	if g.Alive() {
		t.Error("it runs")
	}
}

func startTestGuardian(t *testing.T, dir string) *Guardian {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(childVariable, "guard "+dir)
	g, err := StartGuardian([]string{exe})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *Guardian) pid() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd == nil {
		return 0
	}
	return g.cmd.Process.Pid
}

func TestGuardianIsStartedAgain(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	defer j.Close()
	g := startTestGuardian(t, dir)
	first := g.pid()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "another one", func() bool { pid := g.pid(); return pid != 0 && pid != first })
	if err := g.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("how it ended: %v", err)
	}
	if err := g.Dismiss(); err != nil {
		t.Error(err)
	}
}

// TestGuardianEndsTimeAndAgain: that another one was started is not yet that it is well.
func TestGuardianEndsTimeAndAgain(t *testing.T) {
	g := &Guardian{last: errors.New("it ended"), cmd: &exec.Cmd{}, started: time.Now()}
	if g.Err() == nil {
		t.Error("it is well at once")
	}
	if g.started = g.started.Add(-2 * guardianMaxPause); g.Err() != nil {
		t.Error("it is never well again")
	}
}

func TestGuardianThatCannotRun(t *testing.T) {
	if _, err := StartGuardian(nil); err == nil {
		t.Error("no command")
	}
	if _, err := StartGuardian([]string{filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	hosttest.Need(t, "false")
	g, err := StartGuardian([]string{"false"})
	if err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "it ends", func() bool { return !g.Alive() && g.Err() != nil })
	if err := g.Dismiss(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Error(err) // it was about to be started again
		}
	}
}

// TestGuardianIgnoresSignals: those that a terminal or a service manager sends to all.
func TestGuardianIgnoresSignals(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t, "guard", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // if the test failed
	ignored := func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(status), "SigIgn:\t")
		line, _, _ := strings.Cut(rest, "\n")
		mask, err := strconv.ParseUint(line, 16, 64)
		const want = 0x5a07 // SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE, SIGTERM
		return err == nil && mask&want == want
	}
	within(t, 30*time.Second, "signals are ignored", ignored)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(in, "xxq"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestGuardianAfterTheNextAgent: the next agent was faster, and has the journal.
func TestGuardianAfterTheNextAgent(t *testing.T) {
	dir := t.TempDir()
	next := startHolder(t, dir)
	outcomes, err := guardHere(t, dir)
	if !errors.Is(err, ErrHeld) || outcomes != nil {
		t.Errorf("%v, %v", outcomes, err)
	}
	next()
	if outcomes, err := guardHere(t, dir); err != nil || outcomes != nil {
		t.Errorf("%v, %v", outcomes, err)
	}
}

// guardHere is a guardian whose agent has ended.
func guardHere(t *testing.T, dir string) ([]Outcome, error) {
	t.Helper()
	outcomes, err := Guard(t.Context(), strings.NewReader(""), "/", dir)
	signal.Reset()
	return outcomes, err
}

// TestAgentWaitsForARestore: one that has just been started does not take a guardian at work
// for another agent.
func TestAgentWaitsForARestore(t *testing.T) {
	dir := t.TempDir()
	restoring, _, err := openJournal(dir, asRestorer)
	if err != nil {
		t.Fatal(err)
	}
	if _, holder, _, err := ReadJournal(dir); err != nil || !holder.Restoring || !strings.Contains(holder.String(), "restores") {
		t.Errorf("%v, %v", holder, err)
	}
	ended := make(chan error, 1)
	go func() {
		time.Sleep(2 * lockGlance)
		ended <- restoring.Close()
	}()
	j := openTestJournal(t, dir)
	if err := errors.Join(<-ended, j.Close()); err != nil {
		t.Error(err)
	}
}

// A guardian that ends at once is told, and once.
func TestActorGuardianEnds(t *testing.T) {
	hosttest.Need(t, "false")
	r := newRig(t, func(o *Options) { o.Guardian = []string{"false"} })
	log := r.logged()
	r.tick(nil)
	within(t, 30*time.Second, "it ends", func() bool { return r.actor.guardian.Err() != nil })
	for range 10 {
		r.now += guardPace
		r.tick(nil)
	}
	told(t, log, noGuardian)
	told(t, log, "exit status 1")
	var exit *exec.ExitError
	if err := r.actor.Close(); err != nil && !errors.As(err, &exit) {
		t.Error(err) // otherwise it was about to be started again
	}
	r.actor = nil
}

// One that was dismissed, as by a reload to on_exit: keep or dry_run, is started again as soon as it
// is wanted again.
func TestActorGuardianBack(t *testing.T) {
	hosttest.Need(t, "head")
	guarded := func(o *Options) { o.Guardian = []string{"head", "-c1"} } // until it is dismissed
	r := newRig(t, guarded)
	for _, without := range []func(*Options){keep, dryRun} {
		if r.tick(nil); r.actor.guardian == nil {
			t.Fatal("no guardian")
		}
		r.actor.SetOptions(r.options(guarded, without))
		if r.tick(nil); r.actor.guardian != nil {
			t.Fatal("a guardian that is not wanted")
		}
		r.actor.SetOptions(r.options(guarded))
	}
	if r.tick(nil); r.actor.guardian == nil {
		t.Error("no guardian")
	}
	r.close()
}
