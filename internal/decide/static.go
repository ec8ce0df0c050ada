package decide

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/owca-project/owca"
)

// Static applies fixed rules: all that match a task, in their order, later ones winning by kind.
// Those in the file come after the others; it is read again when it changed. Where it is
// missing there are no rules in it; one that cannot be read, or has an error, leaves the
// last good rules in force, and Allocate returns the error beside what they say.
//
// It returns everything that it wants in each tick, not only what changed: a decision that was
// dropped as a whole, because another part of it was invalid, is then taken up by itself.
// It costs nothing, because the answer is the same map as long as neither tasks, nor the
// labels that rules look at, nor rules change. What rules gave to a task and no longer do is
// in it as a release, for as long as the task runs.
type Static struct {
	Rules  []Rule  `yaml:"rules" help:"Rules; later ones win, kind by kind." example:"[{labels: {app: batch}, allocations: {cpu_quota: 0.25}}]"`
	Config *string `yaml:"config" format:"path" help:"File with a list of more rules, read again when it changes. The agent does not start, nor take up a configuration, with one that has an error."`
	Match  string  `yaml:"match" enum:"all,any" help:"Whether all labels of a rule must match, or any, as the original had it."`

	parse func(name string, text []byte) ([]Rule, error)

	started bool
	file    ruleFile
	inFile  []compiled // rules of the file
	rules   []compiled // all of them
	looked  []string   // labels that rules look at, sorted

	tasks   map[owca.TaskID]*staticTask
	answer  map[owca.TaskID]owca.Allocations
	tick    uint64
	version uint64 // of rules
}

// staticTask is what is known of a task.
type staticTask struct {
	tick, version uint64
	labels        []labelValue // by looked
	gives         owca.Allocations
}

type labelValue struct {
	value string
	ok    bool
}

// NewStatic returns one. parse turns the text of a file into rules as the configuration does,
// in all strictness: it is package config's, which this one does not know.
func NewStatic(parse func(name string, text []byte) ([]Rule, error)) *Static {
	return &Static{Match: "all", parse: parse}
}

// Start reads the file. Without rules that were good once there are none to fall back to: what
// an earlier allocator made of the same file would be given back.
func (s *Static) Start(context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	return s.reread(time.Now())
}

// begin compiles the rules that are not in the file.
func (s *Static) begin() error {
	if s.started {
		return nil
	}
	inline, err := compileRules(s.Rules, s.Match, "rule %d")
	if err != nil {
		return err
	}
	s.rules, s.tasks, s.answer = inline, make(map[owca.TaskID]*staticTask), make(map[owca.TaskID]owca.Allocations)
	s.started = true
	s.setRules(nil)
	return nil
}

// Allocate returns what the rules say of each task, and releases what they no longer say.
// With an error, which is about the file, it returns that, too.
func (s *Static) Allocate(_ context.Context, snapshot *owca.Snapshot) (owca.Decision, error) {
	if err := s.begin(); err != nil {
		return owca.Decision{}, err
	}
	err := s.reread(time.Now())
	s.tick++
	changed, live := false, 0
	for i := range snapshot.Tasks {
		t := &snapshot.Tasks[i].Task
		known := s.tasks[t.ID]
		if known == nil {
			known = &staticTask{}
			s.tasks[t.ID] = known
		}
		if known.tick != s.tick {
			known.tick = s.tick
			live++
		}
		if known.version != s.version || !s.sameLabels(known, t) {
			s.decide(known, t)
			changed = true
		}
	}
	if live != len(s.tasks) {
		maps.DeleteFunc(s.tasks, func(_ owca.TaskID, t *staticTask) bool { return t.tick != s.tick })
		changed = true
	}
	if changed {
		// A new map: who has the old one may still read it.
		s.answer = make(map[owca.TaskID]owca.Allocations, len(s.tasks))
		for id, t := range s.tasks {
			if len(t.gives) > 0 {
				s.answer[id] = t.gives
			}
		}
	}
	return owca.Decision{Allocations: s.answer}, err
}

func (s *Static) sameLabels(known *staticTask, t *owca.Task) bool {
	for i, name := range s.looked {
		value, ok := t.Labels[name]
		if known.labels[i] != (labelValue{value, ok}) {
			return false
		}
	}
	return true
}

// decide goes through the rules.
func (s *Static) decide(known *staticTask, t *owca.Task) {
	gives := make(owca.Allocations, len(known.gives))
	for kind := range known.gives {
		gives[kind] = owca.Allocation{Release: true, Reason: "no rule gives it any more"}
	}
	for i := range s.rules {
		if s.rules[i].matches(t) {
			maps.Copy(gives, s.rules[i].gives)
		}
	}
	known.gives, known.version = gives, s.version
	known.labels = slices.Grow(known.labels[:0], len(s.looked))
	for _, name := range s.looked {
		value, ok := t.Labels[name]
		known.labels = append(known.labels, labelValue{value, ok})
	}
}

func compileRules(rules []Rule, match, where string) ([]compiled, error) {
	var list []compiled
	var errs []error
	for i := range rules {
		c, err := rules[i].compile(match, fmt.Sprintf(where, i+1))
		list = append(list, c)
		errs = append(errs, err)
	}
	return list, errors.Join(errs...)
}

// setRules makes those of the file the last ones.
func (s *Static) setRules(inFile []compiled) {
	s.rules = append(slices.Clip(s.rules[:len(s.rules)-len(s.inFile)]), inFile...)
	s.inFile = inFile
	s.looked = nil
	for i := range s.rules {
		for _, l := range s.rules[i].labels {
			s.looked = append(s.looked, l.name)
		}
	}
	slices.Sort(s.looked)
	s.looked = slices.Compact(s.looked)
	s.version++
}

// ruleFile is what is known of the file with rules.
type ruleFile struct {
	stat   fileStat
	text   []byte
	recent bool // it was read so soon after a change that another may look the same
	good   bool // its rules were in force before, or that it was missing
	gone   bool // it is missing
	err    error
}

// fileStat tells one state of a file from another.
type fileStat struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// reread takes up the rules of the file if it changed. The error is the same one until
// the file is another one.
func (s *Static) reread(now time.Time) error {
	if s.Config == nil {
		return nil
	}
	name := *s.Config
	var st syscall.Stat_t
	err := ignoringEINTR(func() error { return syscall.Stat(name, &st) })
	if errors.Is(err, fs.ErrNotExist) {
		if !s.file.gone {
			slog.Warn("the file with rules is missing: there are none in it until it is there", "component", "decide", "file", name)
			s.file = ruleFile{gone: true, good: true}
			if s.inFile != nil {
				s.setRules(nil)
			}
		}
		return nil
	}
	if err != nil {
		return s.unreadable(&fs.PathError{Op: "stat", Path: name, Err: err})
	}
	is := fileStat{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
	if is == s.file.stat && !s.file.recent {
		return s.file.err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return s.unreadable(fmt.Errorf("%s: not a regular file", name))
	}
	text, err := readRules(name)
	if err != nil {
		return s.unreadable(err)
	}
	// The clock of timestamps has the granularity of the kernel's tick, up to 10 ms, and some
	// file systems' are of seconds: two changes within that look like one.
	changedAt := time.Unix(st.Ctim.Unix())
	s.file.recent = now.Sub(changedAt) < 2*time.Second
	s.file.stat = is
	if s.file.text != nil && slices.Equal(text, s.file.text) {
		return s.file.err
	}
	s.file.text = text
	rules, err := s.parse(name, text)
	if err != nil {
		return s.malformed(err)
	}
	inFile, err := compileRules(rules, s.Match, filepath.Base(name)+": rule %d")
	if err != nil {
		return s.malformed(fmt.Errorf("%s: %w", name, err))
	}
	if s.file.err != nil || s.file.gone {
		slog.Info("the file with rules can be read again", "component", "decide", "file", name)
	}
	s.file.err, s.file.gone, s.file.good = nil, false, true
	s.setRules(inFile)
	return nil
}

// malformed keeps the rules from before. It is called once for each content of the file.
func (s *Static) malformed(err error) error {
	s.file.err, s.file.gone = s.stale(err), false
	return s.file.err
}

// unreadable keeps them, too, and forgets the file, so that it is looked at again.
func (s *Static) unreadable(err error) error {
	s.file = ruleFile{good: s.file.good, err: s.stale(err)}
	return s.file.err
}

// stale says what an error of the file means.
func (s *Static) stale(err error) error {
	if !s.file.good {
		return fmt.Errorf("there are no rules of the file: %w", err)
	}
	return fmt.Errorf("the rules stay as they were: %w", err)
}

// readRules reads a file that may be in the middle of a change, as far as anybody can.
func readRules(name string) ([]byte, error) {
	const most = 4 << 20
	// Without O_NONBLOCK, opening what has become a FIFO waits for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(text) > most {
		err = fmt.Errorf("%s: more than %d bytes, which are no rules", name, most)
	}
	return text, err
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
