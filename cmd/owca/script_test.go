package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// The test binary is also the program, and what scripts start it with.
func TestMain(m *testing.M) {
	hosttest.RunLoad()
	testscript.Main(m, map[string]func(){
		"owca":     main,
		"loopback": loopback,
	})
}

// TestScripts runs testdata/*.txtar, each with the real program. Beside the
// commands of testscript:
//
//	status CODE CMD [ARG...]     runs CMD, which must exit with CODE
//	agent CMD [ARG...]           starts CMD in the background: agent.out, agent.err
//	signal TERM|INT|HUP|KILL     sends a signal to the agent
//	exits CODE                   waits for the agent to end with CODE
//	await FILE REGEXP [COUNT]    waits until FILE has that many matches
//	ticks FILE N                 waits until N more ticks are in FILE, which is overwritten
//	address                      waits until the agent listens, and sets $ADDRESS
//	task LOAD                    starts a load of hosttest in a cgroup, and sets $TASK
//	tasks N                      makes that many cgroups in $TASK
//	quota                        prints the CPU quota of $TASK, in µs; -1 is none
//	setquota N                   sets it, as somebody else would
//	limited, unlimited           waits until there is one, until there is none
//	expand FILE...               replaces $TASK in files
//	get [-status N] [-accept TYPE] [-user NAME:PASSWORD] [-ca FILE] URL [REGEXP]
//	                             waits until the answer is that; see body
//	[!] body REGEXP              the body of the last get has such a line
//	port                         sets $PORT to one that nobody listens on
//	occupy                       listens on a port of 127.0.0.1 and sets $PORT
//	cert DIR                     makes tls.crt and tls.key for 127.0.0.1
//	json FILE                    FILE ("stdout", too) must be JSON
//	generate FILE KIND           makes large or odd files, see generate
//
// $ROOT is the flag that lets the agent run as who runs the tests. The
// condition [root] tells who that is, and [quota] whether cgroups here have CPU quotas.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // it would wait a second at each exit
			e.Setenv("ROOT", "--root="+strconv.FormatBool(os.Geteuid() == 0))
			e.Values[agentKey{}] = &process{}
			e.Values[cgroupKey{}] = new(*hosttest.Cgroup)
			e.Values[testKey{}] = e.T().(testing.TB)
			// What was unpacked belongs to this user; umask may have left it
			// writable for a group, which the agent refuses.
			return filepath.WalkDir(e.WorkDir, func(path string, d os.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				return os.Chmod(path, 0o644)
			})
		},
		Condition: func(cond string) (bool, error) {
			if cond == "quota" {
				return hasQuota(), nil
			}
			if cond != "root" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			root := os.Geteuid() == 0
			if !root && slices.Contains(strings.Split(os.Getenv("OWCA_TEST_REQUIRE"), ","), "root") {
				return false, errors.New("OWCA_TEST_REQUIRE names root, but this is another user")
			}
			return root, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":   scriptStatus,
			"agent":    scriptAgent,
			"signal":   scriptSignal,
			"exits":    scriptExits,
			"await":    scriptAwait,
			"ticks":    scriptTicks,
			"address":  scriptAddress,
			"task":     scriptTask,
			"tasks":    scriptTasks,
			"quota":    scriptQuota,
			"setquota": scriptSetQuota,
			"limited": func(ts *testscript.TestScript, neg bool, args []string) {
				usage(ts, neg, len(args) == 0, "limited")
				awaitQuota(ts, true)
			},
			"unlimited": func(ts *testscript.TestScript, neg bool, args []string) {
				usage(ts, neg, len(args) == 0, "unlimited")
				awaitQuota(ts, false)
			},
			"expand":   scriptExpand,
			"get":      scriptGet,
			"body":     scriptBody,
			"port":     scriptPort,
			"occupy":   scriptOccupy,
			"cert":     scriptCert,
			"json":     scriptJSON,
			"generate": scriptGenerate,
		},
	})
}

// hasQuota says whether the cgroups right below the top have the cpu controller.
func hasQuota() bool {
	for _, h := range hosttest.Hierarchies() {
		control, err := os.ReadFile(filepath.Join(h.Dir, "cgroup.subtree_control"))
		if slices.Contains(h.Controllers, "cpu") || err == nil && slices.Contains(strings.Fields(string(control)), "cpu") {
			return true
		}
	}
	return false
}

// patience is how long a script waits for what must happen. It only matters
// when it does not.
const patience = time.Minute

// eventually calls f until it returns nil, or fails the script.
func eventually(ts *testscript.TestScript, f func() error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %v: %v", patience, err)
		}
	}
}

func usage(ts *testscript.TestScript, neg, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// dial connects from the network namespace of the agent.
func (p *process) dial(ctx context.Context, network, address string) (net.Conn, error) {
	runtime.LockOSThread() // a namespace is the thread's; a socket keeps its own
	defer runtime.UnlockOSThread()
	ours, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if a, err := ours.Stat(); err == nil {
		if b, err := theirs.Stat(); err == nil && !os.SameFile(a, b) {
			if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			defer func() {
				if err := unix.Setns(int(ours.Fd()), unix.CLONE_NEWNET); err != nil {
					panic(err) // whoever got this thread next would be elsewhere
				}
			}()
		}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "status CODE CMD [ARG...]")
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	code := 0
	if exit != nil {
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

type (
	agentKey struct{}
	testKey  struct{}
)

// process is the agent of a script.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	body []byte        // of the last get
}

func running(ts *testscript.TestScript) *process {
	p := ts.Value(agentKey{}).(*process)
	if p.cmd == nil {
		ts.Fatalf("no agent runs")
	}
	return p
}

func scriptAgent(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "agent CMD [ARG...]")
	path, err := exec.LookPath(args[0])
	ts.Check(err)
	p := ts.Value(agentKey{}).(*process)
	if p.cmd != nil {
		ts.Fatalf("an agent runs already")
	}
	*p = process{cmd: exec.Command(path, args[1:]...), done: make(chan struct{})}
	p.cmd.Args[0] = args[0]
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = append(os.Environ(), "HOME=/no-home", "SECRET="+ts.Getenv("SECRET"))
	out, err := os.Create(ts.MkAbs("agent.out"))
	ts.Check(err)
	defer out.Close()
	log, err := os.Create(ts.MkAbs("agent.err"))
	ts.Check(err)
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, log
	ts.Check(p.cmd.Start())
	cmd, done := p.cmd, p.done
	go func() {
		defer close(done)
		_ = cmd.Wait() // its state tells
	}()
	ts.Defer(func() {
		if p.cmd == cmd { // not waited for
			_ = cmd.Process.Kill()
			<-done
			ts.Logf("[agent.err]\n%s", ts.ReadFile("agent.err"))
		}
	})
}

func scriptSignal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "signal TERM|INT|HUP|KILL")
	s := unix.SignalNum("SIG" + args[0])
	if s == 0 {
		ts.Fatalf("no signal %s", args[0])
	}
	ts.Check(running(ts).cmd.Process.Signal(s))
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "exits CODE")
	p := running(ts)
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("the agent still runs after %v", patience)
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	fmt.Fprint(ts.Stdout(), ts.ReadFile("agent.out"))
	fmt.Fprint(ts.Stderr(), ts.ReadFile("agent.err"))
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("the agent exits with %d, want %s", code, args[0])
	}
}

func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2 || len(args) == 3, "await FILE REGEXP [COUNT]")
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	want := 1
	if len(args) == 3 {
		want, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	eventually(ts, func() error {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if n := len(re.FindAll(b, -1)); n < want {
			return fmt.Errorf("%s has %d matches of %q, want %d (%v):\n%s", args[0], n, args[1], want, err, b[max(0, len(b)-4096):])
		}
		return nil
	})
}

var ticked = regexp.MustCompile(`(?m)^owca_ticks_total(?:\{.*\})? (\d+)`)

func scriptTicks(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "ticks FILE N")
	more, err := strconv.Atoi(args[1])
	ts.Check(err)
	count := func() (int, error) {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err != nil {
			return 0, err
		}
		m := ticked.FindSubmatch(b)
		if m == nil {
			return 0, fmt.Errorf("%s does not tell how many ticks there were", args[0])
		}
		return strconv.Atoi(string(m[1]))
	}
	first := 0
	eventually(ts, func() error {
		var err error
		first, err = count()
		return err
	})
	eventually(ts, func() error {
		now, err := count()
		if err == nil && now < first+more {
			err = fmt.Errorf("%d ticks since %d, want %d", now-first, first, more)
		}
		return err
	})
}

var listening = regexp.MustCompile(`address=(127\.0\.0\.1:\d+)`)

func scriptAddress(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "address")
	eventually(ts, func() error {
		m := listening.FindAllStringSubmatch(ts.ReadFile("agent.err"), -1)
		if m == nil {
			return fmt.Errorf("the agent does not listen:\n%s", ts.ReadFile("agent.err"))
		}
		ts.Setenv("ADDRESS", m[len(m)-1][1])
		return nil
	})
}

func scriptTask(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "task LOAD")
	c := hosttest.NewCgroup(ts.Value(testKey{}).(testing.TB), nil, strings.ReplaceAll(ts.Name(), "/", "-"))
	c.Start(strings.Join(args, " "))
	ts.Setenv("TASK", c.Path)
	*ts.Value(cgroupKey{}).(**hosttest.Cgroup) = c
}

type cgroupKey struct{}

// ours is the cgroup that task made.
func ours(ts *testscript.TestScript) *hosttest.Cgroup {
	c := *ts.Value(cgroupKey{}).(**hosttest.Cgroup)
	if c == nil {
		ts.Fatalf("no task")
	}
	return c
}

func scriptTasks(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "tasks N")
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	for i := range n {
		hosttest.NewCgroup(ts.Value(testKey{}).(testing.TB), ours(ts), fmt.Sprintf("t%02d", i))
	}
}

// quotaOf reads the CPU quota of the script's cgroup: v1's file, or the first word of v2's.
func quotaOf(ts *testscript.TestScript) (string, error) {
	c := ours(ts)
	name := filepath.Join(c.Dir("cpu"), "cpu.cfs_quota_us")
	if c.Dir("cpu") == "" {
		name = filepath.Join(c.Dir("unified"), "cpu.max")
	}
	b, err := os.ReadFile(name)
	if err != nil || len(b) == 0 {
		return "", errors.Join(err, errors.New("no quota"))
	}
	if quota := strings.Fields(string(b))[0]; quota != "max" {
		return quota, nil
	}
	return "-1", nil
}

func scriptQuota(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0 || len(args) == 2 && args[0] == ">", "quota [> FILE]")
	quota, err := quotaOf(ts)
	ts.Check(err)
	if len(args) == 0 {
		fmt.Fprintln(ts.Stdout(), quota)
		return
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(quota+"\n"), 0o600))
}

func scriptSetQuota(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "setquota N")
	c := ours(ts)
	name, value := filepath.Join(c.Dir("cpu"), "cpu.cfs_quota_us"), args[0]
	if c.Dir("cpu") == "" {
		name = filepath.Join(c.Dir("unified"), "cpu.max")
		if value == "-1" {
			value = "max"
		}
	}
	ts.Check(os.WriteFile(name, []byte(value), 0))
}

func awaitQuota(ts *testscript.TestScript, limited bool) {
	eventually(ts, func() error {
		quota, err := quotaOf(ts)
		if err == nil && (quota != "-1") != limited {
			err = fmt.Errorf("the quota is %s", quota)
		}
		return err
	})
}

func scriptExpand(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "expand FILE...")
	for _, name := range args {
		text := strings.ReplaceAll(ts.ReadFile(name), "$TASK", ts.Getenv("TASK"))
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

func scriptGet(ts *testscript.TestScript, neg bool, args []string) {
	var flags flag.FlagSet
	status := flags.Int("status", 200, "")
	accept := flags.String("accept", "", "")
	user := flags.String("user", "", "")
	ca := flags.String("ca", "", "")
	err := flags.Parse(args)
	usage(ts, neg, err == nil && (flags.NArg() == 1 || flags.NArg() == 2), "get [FLAG...] URL [REGEXP]")
	re, err := regexp.Compile("(?m)" + flags.Arg(1))
	ts.Check(err)
	transport := &http.Transport{DialContext: running(ts).dial}
	defer transport.CloseIdleConnections()
	if *ca != "" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(ts.ReadFile(*ca)))
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	var body []byte
	eventually(ts, func() error {
		req, err := http.NewRequest(http.MethodGet, flags.Arg(0), http.NoBody)
		ts.Check(err)
		if *accept != "" {
			req.Header.Set("Accept", *accept)
		}
		if name, password, ok := strings.Cut(*user, ":"); ok {
			req.SetBasicAuth(name, password)
		}
		response, err := client.Do(req)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if body, err = io.ReadAll(response.Body); err != nil {
			return err
		}
		// What a client can see of the type is part of the answer.
		body = append([]byte("Content-Type: "+response.Header.Get("Content-Type")+"\n"), body...)
		if response.StatusCode != *status || !re.Match(body) {
			return fmt.Errorf("status %s, want %d and %q in:\n%s", response.Status, *status, flags.Arg(1), body[:min(len(body), 4096)])
		}
		return nil
	})
	running(ts).body = body
}

func scriptBody(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: body REGEXP")
	}
	body := running(ts).body
	if regexp.MustCompile("(?m)"+args[0]).Match(body) == neg {
		// All of it would be thousands of lines: those that begin like it.
		name := regexp.MustCompile(`^\^?\w+`).FindString(args[0])
		lines := regexp.MustCompile("(?m)"+cmp.Or(name, "^#")+".*").FindAll(body, 10)
		ts.Fatalf("match of %q in the body: %v, want %v:\n%s", args[0], neg, !neg, bytes.Join(lines, []byte("\n")))
	}
}

func listen(ts *testscript.TestScript) net.Listener {
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv("PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	return l
}

func scriptPort(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "port")
	ts.Check(listen(ts).Close())
}

func scriptOccupy(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "occupy")
	l := listen(ts)
	ts.Defer(func() { l.Close() })
}

func scriptCert(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "cert DIR")
	ts.Check(makeCert(ts.MkAbs(args[0])))
}

func makeCert(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "json FILE")
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &v); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// scriptGenerate makes files that don't belong into a repository.
func scriptGenerate(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "generate FILE KIND")
	var b bytes.Buffer
	b.WriteString("runner: !MeasurementRunner\n  node: !AutoNode\n  extra_labels: ")
	switch args[1] {
	case "10MB":
		b.WriteString("\n")
		for i := range 100_000 {
			fmt.Fprintf(&b, "    label_%d: %q\n", i, strings.Repeat("x", 80))
		}
	case "crowded":
		b.WriteString("[" + strings.Repeat("a,", 1_000_000) + "a]\n")
	case "deep":
		b.WriteString(strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n")
	case "laughs": // each anchor ten times the one before
		b.WriteString("{}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
		for i := range 9 {
			alias := fmt.Sprintf("*a%d", i)
			fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(alias+", ", 9)+alias)
		}
	case "binary":
		b.Reset()
		for i := range 1024 {
			b.WriteByte(byte(i * 7))
		}
	case "latin1":
		b.WriteString("{name: J\xfcrgen}\n")
	default:
		ts.Fatalf("no kind %s", args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o600))
}

// loopback is a program that runs another in a network namespace of its own,
// where every port is free and nothing but 127.0.0.1 can be reached. It needs
// root.
func loopback() {
	runtime.LockOSThread() // a namespace is the thread's; exec keeps this one's
	fail := func(doing string, err error) {
		fmt.Fprintf(os.Stderr, "loopback: %s: %v\n", doing, err)
		os.Exit(125)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		fail("new network namespace", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fail("socket", err)
	}
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		fail("lo", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		fail("lo up", err)
	}
	path, err := exec.LookPath(os.Args[1])
	if err != nil {
		fail("exec", err)
	}
	fail("exec", syscall.Exec(path, os.Args[1:], os.Environ()))
}
