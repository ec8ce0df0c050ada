package resctrl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHostClaim(t *testing.T) {
	tree := openHost(t)
	// Ended by kill -9: what it held is free.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"=claiming")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe() // it ends when this one does
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "claimed\n" {
		t.Errorf("the child said %q, %v", line, err)
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wantError(t, tree.Claim(), ErrInUse, "flock info", fmt.Sprintf("by process %d (%q)", cmd.Process.Pid, bytes.TrimSpace(comm)))
	}
	// It hinders nobody who only reads, nor who locks the root for a change.
	if _, err := tree.Groups(nil); err != nil {
		t.Error(err)
	}
	if err := unix.Flock(tree.root, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("lock of the root: %v", err)
	}
	if err := unix.Flock(tree.root, unix.LOCK_UN); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for range 2 {
		if err := tree.Claim(); err != nil {
			t.Fatal(err)
		}
	}

	second, err := openMounted()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	wantError(t, second.Claim(), ErrInUse, "by this process")
	wantError(t, second.Claim(), ErrThisProcess)
	// A bind mount is the same.
	dir := t.TempDir()
	if err := unix.Mount(tree.Mount().Dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	bound, err := (Mount{Dir: dir, Options: tree.Mount().Options}).Open()
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, bound.Claim(), ErrInUse)
	if err := bound.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, tree.Claim(), ErrGone)
	if err := second.Claim(); err != nil {
		t.Error(err)
	}
}

// claimingChild claims and waits for the end of its input.
func claimingChild([]string) error {
	tree, err := openMounted()
	if err != nil {
		return err
	}
	if err := tree.Claim(); err != nil {
		return err
	}
	fmt.Println("claimed")
	if _, err := os.Stdin.Read(make([]byte, 1)); err == nil {
		return errors.New("input")
	}
	return tree.Close()
}

// TestClaimFixture is of any file system: of this host, too.
func TestClaimFixture(t *testing.T) {
	dir := writeFixture(t, map[string]string{"info/last_cmd_status": "ok\n"})
	open := func() *Tree {
		tree, err := Mount{Dir: dir}.Open()
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	first, second := open(), open()
	defer second.Close()
	if err := first.Claim(); err != nil {
		t.Fatal(err)
	}
	wantError(t, second.Claim(), ErrInUse, "by this process")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.Claim(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "info")); err != nil {
		t.Fatal(err)
	}
}

func FuzzLocks(f *testing.F) {
	for _, s := range []string{
		"1: FLOCK  ADVISORY  WRITE 4242 00:1f:5 0 EOF\n",
		"1: POSIX  ADVISORY  WRITE 1 00:1f:5 0 EOF\n2: FLOCK  ADVISORY  WRITE 2 00:1f:5 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 3 00:1f:5 0 EOF\n",
		"1: FLOCK ADVISORY WRITE -1 00:1f:5 0 EOF\n1: FLOCK ADVISORY WRITE 7 00:1f:55 0 EOF", "", "\n", "x",
	} {
		f.Add([]byte(s), uint32(0x1f), uint32(5), uint16(4242))
	}
	f.Fuzz(func(t *testing.T, text []byte, minor, ino uint32, pid uint16) {
		dev := unix.Mkdev(0, minor&0xff)
		got := parseLocks(text, dev, uint64(ino))
		if got != 0 && !strings.Contains(string(text), strconv.Itoa(got)) {
			// Leading zeros are the kernel's to leave out.
			if !strings.Contains(string(text), "0"+strconv.Itoa(got)) {
				t.Errorf("process %d of %q", got, text)
			}
		}
		line := fmt.Appendf(nil, "9: FLOCK  ADVISORY  WRITE %d 00:%02x:%d 0 EOF\n", pid, minor&0xff, ino)
		if got := parseLocks(line, dev, uint64(ino)); got != int(pid) {
			t.Errorf("process %d of %q", got, line)
		}
		if got := parseLocks(line, dev, uint64(ino)+1); got != 0 {
			t.Errorf("process %d of another file", got)
		}
		// What waits does not have it.
		waits := bytes.Replace(line, []byte("FLOCK"), []byte("-> FLOCK"), 1)
		if got := parseLocks(waits, dev, uint64(ino)); got != 0 {
			t.Errorf("process %d waits", got)
		}
	})
}
