package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/proc"
)

// The floor is a loop of bare preads of the files that the agent reads, through
// open descriptors. It runs in processes of its own, one for some tasks each,
// because it keeps more files open than one may have.

const floorCommand = "floor"

// The readings that have a pace, as bits of a task's byte in a pass; their names
// are the labels of owca_task_reading_age_seconds.
var paced = []struct {
	name string
	set  cgroup.Set
}{
	{"memory_stat", cgroup.MemoryStat},
	{"numa_stat", cgroup.NUMA},
	{"limits", cgroup.Limits},
	{"run_queue", 0},
}

const everyTick = cgroup.All &^ (cgroup.MemoryStat | cgroup.NUMA | cgroup.Limits)

// floorTask says what a floor process reads. The one with Platform reads the
// platform, too, as if it were one more task with one paced reading.
type floorTask struct {
	Tasks    []string
	Platform bool
}

func (t *floorTask) len() int {
	n := len(t.Tasks)
	if t.Platform {
		n++
	}
	return n
}

// floor is a floor process.
type floor struct {
	task  floorTask
	cmd   *exec.Cmd
	in    *os.File
	out   *os.File
	files int
}

// startFloor starts the floor of tasks and waits until its files are open.
func startFloor(task floorTask) (*floor, error) {
	in, out, cmd, err := startSelf(nil, floorCommand)
	if err != nil {
		return nil, err
	}
	f := &floor{task: task, cmd: cmd, in: in, out: out}
	if err := json.NewEncoder(f.in).Encode(task); err != nil {
		return nil, errors.Join(err, f.close())
	}
	files, err := f.answer()
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	f.files = int(files)
	return f, nil
}

func (f *floor) answer() (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(f.out, b[:]); err != nil {
		return 0, fmt.Errorf("a floor process has ended: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// pass reads all files once, those with a pace if their bit is set in due, which
// has a byte a task. It returns the CPU time that took.
func (f *floor) pass(due []byte) (time.Duration, error) {
	if _, err := f.in.Write(due); err != nil {
		return 0, err
	}
	ns, err := f.answer()
	return time.Duration(ns), err
}

func (f *floor) close() error {
	return errors.Join(f.in.Close(), f.out.Close(), f.cmd.Wait())
}

// startSelf starts this program again, changed by prepare, and returns the other
// ends of its stdin and stdout. They block: the poller's work would count as the
// agent's.
func startSelf(prepare func(*exec.Cmd), args ...string) (in, out *os.File, cmd *exec.Cmd, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, nil, err
	}
	stdin, in, err := blockingPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer stdin.Close()
	out, stdout, err := blockingPipe()
	if err != nil {
		return nil, nil, nil, errors.Join(err, in.Close())
	}
	defer stdout.Close()
	cmd = exec.Command(exe, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if prepare != nil {
		prepare(cmd)
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, errors.Join(err, in.Close(), out.Close())
	}
	return in, out, cmd, nil
}

func blockingPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// file is a descriptor, and in how many preads, at which offsets, its content
// comes.
type file struct {
	fd      int
	offsets []int64
}

// floorMain is the floor process.
func floorMain() error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM) // ends with its stdin
	runtime.LockOSThread()
	line, err := firstLine(os.Stdin)
	if err != nil {
		return err
	}
	var task floorTask
	if err := json.Unmarshal(line, &task); err != nil {
		return err
	}
	files, n, err := openFloor(&task)
	if err != nil {
		return err
	}
	answer := binary.LittleEndian.AppendUint64(nil, uint64(n))
	due := make([]byte, task.len())
	buf := make([]byte, 64<<10)
	for {
		if _, err := os.Stdout.Write(answer); err != nil {
			return err
		}
		if _, err := io.ReadFull(os.Stdin, due); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		start := threadCPU()
		for i := range files {
			f := &files[i]
			if err := pread(f[0], buf); err != nil {
				return err
			}
			for b := due[i]; b != 0; b &= b - 1 {
				if err := pread(f[1+bit(b)], buf); err != nil {
					return err
				}
			}
		}
		answer = binary.LittleEndian.AppendUint64(answer[:0], uint64(threadCPU()-start))
	}
}

func bit(b byte) int {
	n := 0
	for ; b&1 == 0; b >>= 1 {
		n++
	}
	return n
}

func pread(files []file, buf []byte) error {
	for i := range files {
		for _, offset := range files[i].offsets {
			if _, err := unix.Pread(files[i].fd, buf, offset); err != nil {
				return err
			}
		}
	}
	return nil
}

func firstLine(r io.Reader) ([]byte, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return line, nil
		}
		line = append(line, b[0])
	}
}

// openFloor opens the files of all tasks: those of every tick, then those of
// each of paced. It lets packages cgroup and proc open them, so that they are
// the same files, and looks at what is open then.
func openFloor(task *floorTask) (files [][1 + 4][]file, n int, err error) {
	tree, err := cgroup.FS{}.Tree()
	if err != nil {
		return nil, 0, err
	}
	tree.KeepSets, tree.KeepFiles = cgroup.All, 1<<20
	files = make([][1 + 4][]file, task.len())
	open := descriptors{known: map[int]bool{}}
	take := func() ([]file, error) {
		list, err := open.fresh()
		n += len(list)
		return list, err
	}
	if _, err := take(); err != nil {
		return nil, 0, err
	}
	n = 0
	var pids []int
	for i, path := range task.Tasks {
		g, err := tree.Open(path)
		if err != nil {
			return nil, 0, err
		}
		var s cgroup.Stat
		for k := range 1 + len(paced) {
			set := everyTick
			if k > 0 {
				set = paced[k-1].set
			}
			if err := g.Read(&s, set); err != nil {
				return nil, 0, err
			}
			if set == 0 {
				if pids, err = g.Threads(pids); err != nil {
					return nil, 0, err
				}
				if err := openThreads(tree, path, pids); err != nil {
					return nil, 0, err
				}
			}
			if files[i][k], err = take(); err != nil {
				return nil, 0, err
			}
		}
	}
	if task.Platform {
		p := &files[len(task.Tasks)]
		host := proc.FS{Root: "/"}.NewHost([]string{"pgfault"})
		self := proc.FS{Root: "/"}.NewSelf()
		var s proc.HostStat
		var own proc.SelfStat
		if err := errors.Join(host.Read(&s), self.Read(&own)); err != nil {
			return nil, 0, err
		}
		if p[0], err = take(); err != nil {
			return nil, 0, err
		}
		if err := host.ReadSlow(&s); err != nil {
			return nil, 0, err
		}
		if p[1], err = take(); err != nil {
			return nil, 0, err
		}
	}
	return files, n, nil
}

// openThreads opens the list of a task's threads and their schedstat.
func openThreads(tree *cgroup.Tree, path string, pids []int) error {
	name := tree.Unified() + path + "/cgroup.threads"
	if dir := tree.V1("cpu"); dir != "" {
		name = dir + path + "/tasks"
	}
	names := []string{name}
	for _, pid := range pids {
		names = append(names, "/proc/"+strconv.Itoa(pid)+"/schedstat")
	}
	for _, name := range names {
		if _, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
	return nil
}

// descriptors are those that are open in this process.
type descriptors struct {
	known map[int]bool
	from  int // all below are known
}

// fresh returns the files of cgroupfs, procfs and sysfs that have been opened
// since the last call.
func (d *descriptors) fresh() ([]file, error) {
	const gap = 64 // after this many free numbers there are no more in use
	var list []file
	for fd, free := d.from, 0; free < gap; fd++ {
		if d.known[fd] {
			if fd == d.from {
				d.from++
			}
			continue
		}
		target, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if err != nil {
			free++
			continue
		}
		free = 0
		d.known[fd] = true
		if strings.HasSuffix(target, "/fd") || !strings.HasPrefix(target, "/sys/") && !strings.HasPrefix(target, "/proc/") {
			continue
		}
		offsets, err := contentOffsets(fd)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", target, err)
		}
		list = append(list, file{fd, offsets})
	}
	return list, nil
}

// contentOffsets finds out in how many pieces the content comes; some files of
// procfs come a page at a time. One pread that says that there is no more is
// not counted.
func contentOffsets(fd int) ([]int64, error) {
	buf := make([]byte, 64<<10)
	var offsets []int64
	for offset := int64(0); ; {
		n, err := unix.Pread(fd, buf, offset)
		if err != nil {
			return nil, err
		}
		if n == 0 && offset > 0 {
			return offsets, nil
		}
		if offsets = append(offsets, offset); n == 0 {
			return offsets, nil
		}
		offset += int64(n)
	}
}

// threadCPU is the CPU time of this thread.
func threadCPU() time.Duration { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }

// processCPU is the CPU time of this process, with its ended threads.
func processCPU() time.Duration { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }

func clock(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(err) // every Linux has both clocks
	}
	return time.Duration(ts.Nano())
}
