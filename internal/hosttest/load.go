package hosttest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// run is the load's side of Start: wait to be moved, work, say so, stay.
func run(load []string) error {
	fmt.Println("started")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	switch load[0] {
	case "sleep":
	case "spin":
		d, err := time.ParseDuration(load[1])
		if err != nil {
			return err
		}
		runtime.LockOSThread()
		for start := threadTime(); threadTime()-start < d; {
		}
	case "switch":
		n, err := strconv.Atoi(load[1])
		if err != nil {
			return err
		}
		runtime.LockOSThread()
		for range n {
			ts := syscall.Timespec{Nsec: 100_000}
			if err := syscall.Nanosleep(&ts, nil); err != nil && err != syscall.EINTR {
				return err
			}
		}
	case "touch":
		mib, err := strconv.Atoi(load[1])
		if err != nil {
			return err
		}
		// mmap, so that every page is a fault of its own, and no huge pages,
		// so that their number is known.
		b, err := syscall.Mmap(-1, 0, mib<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return err
		}
		_ = syscall.Madvise(b, 15) // MADV_NOHUGEPAGE
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
	case "threads":
		n, err := strconv.Atoi(load[1])
		if err != nil {
			return err
		}
		ready := make(chan struct{})
		for range n {
			go func() {
				runtime.LockOSThread()
				ready <- struct{}{}
				ts := syscall.Timespec{Sec: 1 << 30}
				_ = syscall.Nanosleep(&ts, nil)
			}()
		}
		for range n {
			<-ready
		}
	case "forks":
		n, err := strconv.Atoi(load[1])
		if err != nil {
			return err
		}
		// The ends of the chains are this process's to wait for.
		const setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER
		if _, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); e != 0 {
			return e
		}
		// None outlives this process.
		const chain = `next() { kill -0 "$0" 2>/dev/null || exit; sleep 0.01; next & }; next`
		for range n {
			if err := exec.Command("sh", "-c", chain, strconv.Itoa(os.Getpid())).Run(); err != nil {
				return err
			}
		}
		go func() {
			for err := error(nil); err == nil || err == syscall.EINTR; {
				_, err = syscall.Wait4(-1, nil, 0, nil)
			}
		}()
	default:
		return fmt.Errorf("unknown load %q", load)
	}
	fmt.Println("done")
	// Until killed, or until the test that started it is gone.
	b := make([]byte, 1)
	_, _ = os.Stdin.Read(b)
	return nil
}

// threadTime is the CPU time of this OS thread (getrusage RUSAGE_THREAD).
func threadTime() time.Duration {
	const rusageThread = 1
	var ru syscall.Rusage
	if err := syscall.Getrusage(rusageThread, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
