package act

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// The journal is lines. The first one says of which version and boot it is, and which agent
// wrote it; a later version has one of the same form:
//
//	owca-leases 1 2f0d1f9c-6a43-4a0c-8e0e-5b1f6b0b8a55 v1.2.0 5a0c12fe
//
// It ends with the CRC-32C of what is before it. Each other line is a record, in JSON
// behind the CRC-32C of the boot and the JSON, so that where the first line is damaged
// those of another boot don't pass:
//
//	1c291ca3 {"Lease":{"Seq":1,"Cgroup":"/app","Knob":"cpu.max",…}}
//	9d6c1e02 {"Seq":1,"End":"released"}
const (
	journalMagic   = "owca-leases"
	journalVersion = 1
)

// record is a Lease as it is from now on, or that one has ended.
type record struct {
	Lease *Lease `json:",omitempty"`
	Seq   uint64 `json:",omitempty"`
	End   End    `json:",omitempty"`
}

// endDropped is of a lease whose change was not made.
const endDropped End = "dropped"

var castagnoli = crc32.MakeTable(crc32.Castagnoli) // never changed

func journalHeader(boot string) []byte {
	agent := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		agent = info.Main.Version
	}
	b := fmt.Appendf(nil, "%s %d %s %s ", journalMagic, journalVersion, boot, agent)
	return fmt.Appendf(b, "%08x\n", crc32.Checksum(b, castagnoli))
}

// appendRecord appends a line. Its error is that of a knob or a kind of change that does
// not exist.
func appendRecord(b []byte, boot string, r *record) ([]byte, error) {
	if r.Lease != nil && !eachName(r.Lease, isPlain) {
		l := r.Lease.clone()
		eachName(&l, func(s *string) bool { *s = escape(*s); return true })
		r = &record{Lease: &l}
	}
	const blank = "00000000 "
	at := len(b)
	b = append(b, blank...) // for the sum
	var err error
	if r.Lease != nil && r.Lease.isLimit() {
		b, err = r.Lease.appendJSON(append(b, `{"Lease":`...))
		b = append(b, '}')
	} else {
		var text []byte
		text, err = json.Marshal(r)
		b = append(b, text...)
	}
	if err != nil {
		return b[:at], fmt.Errorf("act: a lease cannot be written down: %w", err)
	}
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], recordSum(boot, b[at+len(blank):]))
	hex.Encode(b[at:], sum[:])
	return append(b, '\n'), nil
}

// isLimit says whether a lease is one of a cgroup's limit that exists.
func (l *Lease) isLimit() bool {
	return l.Cgroup != "" && l.Knob < cgroup.NumKnobs && l.Resctrl == nil && l.Before == nil && l.Cgroups == nil
}

// appendJSON is what json.Marshal makes of an isLimit, in a fifth of the time: a thousand of
// them are what is waited for before a thousand limits change.
func (l *Lease) appendJSON(b []byte) ([]byte, error) {
	text := func(name, s string) {
		b = append(append(b, name...), ':')
		b = appendString(b, s)
	}
	b = strconv.AppendUint(append(b, `{"Seq":`...), l.Seq, 10)
	text(`,"Cgroup"`, l.Cgroup)
	text(`,"Knob"`, l.Knob.String())
	if l.Group != "" {
		text(`,"Group"`, l.Group)
	}
	if l.Task != "" {
		text(`,"Task"`, string(l.Task))
	}
	text(`,"For"`, string(l.For))
	text(`,"Kind"`, string(l.Kind))
	text(`,"Owner"`, l.Owner)
	text(`,"Reason"`, l.Reason)
	text(`,"ID"`, l.ID)
	text(`,"Old"`, l.Old)
	text(`,"New"`, l.New)
	b = strconv.AppendBool(append(b, `,"Release":`...), l.Release)
	text(`,"Note"`, l.Note)
	b = strconv.AppendBool(append(b, `,"Resctrl":null,"Undo":`...), l.Undo)
	text(`,"Cgroups":null,"First"`, l.First)
	var err error
	if b, err = l.Since.AppendText(append(b, `,"Since":"`...)); err == nil {
		b, err = l.Last.AppendText(append(b, `","Last":"`...))
	}
	b = append(b, '"')
	if l.Yielded {
		b = append(b, `,"Yielded":true`...)
	}
	return append(b, '}'), err
}

// appendString quotes s as json.Marshal does.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			text, _ := json.Marshal(s) // there is no string that it refuses
			return append(b, text...)
		}
	}
	b = append(append(b, '"'), s...)
	return append(b, '"')
}

func recordSum(boot string, text []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(boot), castagnoli), castagnoli, text)
}

// journalState is what a journal says.
type journalState struct {
	boot    string
	leases  map[uint64]*Lease
	seq     uint64 // the last one
	damaged int    // records, and the header, that could not be read
	first   int    // line of the first one
	cut     int    // bytes of the last record, which was cut off
	void    int    // leases of another boot
}

// parseJournal reads what was written during a boot; of another one there are no leases.
// ErrNewer is the only error.
func parseJournal(data []byte, boot string) (*journalState, error) {
	s := &journalState{boot: boot, leases: map[uint64]*Lease{}}
	damaged := func(line int) {
		if s.damaged++; s.damaged == 1 {
			s.first = line
		}
	}
	for line := 1; len(data) > 0; line++ {
		text, rest, whole := bytes.Cut(data, []byte("\n"))
		data = rest
		if !whole {
			s.cut = len(text)
			break
		}
		if line == 1 {
			version, wrote, ok := parseHeader(text)
			switch {
			case ok && version > journalVersion && wrote == boot:
				return nil, fmt.Errorf("%w: format %d, this one knows %d: have that version restore it (owca restore), or remove the file after a reboot",
					ErrNewer, version, journalVersion)
			case ok:
				s.boot = wrote
				if version > journalVersion {
					return s, nil // nothing in it is of account
				}
			default:
				damaged(line)
			}
			continue
		}
		r, ok := parseRecord(text, s.boot)
		switch {
		case !ok:
			damaged(line)
		case r.Lease != nil:
			s.leases[r.Lease.Seq] = r.Lease
			s.seq = max(s.seq, r.Lease.Seq)
		default:
			delete(s.leases, r.Seq)
			s.seq = max(s.seq, r.Seq)
		}
	}
	s.once()
	if s.boot != boot {
		s.void = len(s.leases)
		clear(s.leases)
	}
	return s, nil
}

// once leaves one lease of each target, the later one: the end of the earlier one was lost.
func (s *journalState) once() {
	byTarget := make(map[Target]*Lease, len(s.leases))
	for _, l := range s.sorted() {
		if earlier := byTarget[l.Target]; earlier != nil {
			delete(s.leases, earlier.Seq)
		}
		byTarget[l.Target] = l
	}
}

func (s *journalState) sorted() []*Lease {
	list := make([]*Lease, 0, len(s.leases))
	for _, l := range s.leases {
		list = append(list, l)
	}
	slices.SortFunc(list, bySeq)
	return list
}

func bySeq(a, b *Lease) int { return cmp.Compare(a.Seq, b.Seq) }

// tell says what could not be read of a file; the end that was cut off only if so asked.
func (s *journalState) tell(file string, cut bool) (told []string) {
	if s.damaged > 0 {
		lines := "1 line"
		if s.damaged > 1 {
			lines = fmt.Sprintf("%d lines", s.damaged)
		}
		told = append(told, fmt.Sprintf("%s: %s cannot be read, the first one is %d; the leases in the others are held",
			file, lines, s.first))
	}
	if s.cut > 0 && cut {
		told = append(told, fmt.Sprintf("%s: the last %d bytes are a record that was cut off; no change was made for it", file, s.cut))
	}
	return told
}

// lost is the ErrLost of records that could not be read; nil of none. Without the header
// alone all leases are there, and those of another boot are void.
func (s *journalState) lost(boot string) error {
	switch {
	case s.damaged == 0 || s.damaged == 1 && s.first == 1 || s.boot != boot:
		return nil
	case s.damaged == 1:
		return fmt.Errorf("%w: the lease in line %d is lost, and its limit stays as it is: see %s", ErrLost, s.first, journalDamaged)
	}
	return fmt.Errorf("%w: the leases in %d lines, of which the first one is %d, are lost, and their limits stay as they are: see %s",
		ErrLost, s.damaged, s.first, journalDamaged)
}

func parseHeader(text []byte) (version int, boot string, ok bool) {
	i := bytes.LastIndexByte(text, ' ')
	if i < 0 || !sumIs(text[i+1:], crc32.Checksum(text[:i+1], castagnoli)) {
		return 0, "", false
	}
	f := strings.Split(string(text[:i]), " ")
	if len(f) < 3 || f[0] != journalMagic {
		return 0, "", false
	}
	version, err := strconv.Atoi(f[1])
	return version, f[2], err == nil && version > 0
}

func parseRecord(text []byte, boot string) (r record, ok bool) {
	const sum = 8
	if len(text) < sum+1 || text[sum] != ' ' || !sumIs(text[:sum], recordSum(boot, text[sum+1:])) {
		return record{}, false
	}
	if err := json.Unmarshal(text[sum+1:], &r); err != nil {
		return record{}, false
	}
	if l := r.Lease; l != nil {
		eachName(l, func(s *string) bool { *s = unescape(*s); return true })
		return r, l.valid()
	}
	return r, r.Seq > 0
}

// sumIs says whether text is a CRC as it is written.
func sumIs(text []byte, crc uint32) bool {
	return len(text) == 8 && string(text) == fmt.Sprintf("%08x", crc)
}

// valid says whether a lease could have been written by Take.
func (l *Lease) valid() bool {
	if l.Seq == 0 {
		return false
	}
	if l.Cgroup != "" {
		return l.Group == "" && l.Task == "" && l.Resctrl == nil
	}
	return l.Resctrl != nil
}

// clone returns a copy whose names can be changed.
func (l *Lease) clone() Lease {
	c := *l
	c.Cgroups = slices.Clone(l.Cgroups)
	for _, r := range []**resctrl.Change{&c.Resctrl, &c.Before} {
		if *r != nil {
			change := **r
			*r = &change
		}
	}
	return c
}

// eachName calls f for each string of a lease that may be any bytes, as the names of cgroups
// and what is made of them are, until it returns false; it returns what the last call did.
func eachName(l *Lease, f func(*string) bool) bool {
	ok := f(&l.Cgroup) && f(&l.Group) && f((*string)(&l.Task)) && f((*string)(&l.For)) &&
		f(&l.Owner) && f(&l.Reason) && f(&l.Note)
	for i := range l.Cgroups {
		ok = ok && f(&l.Cgroups[i])
	}
	for _, r := range []*resctrl.Change{l.Resctrl, l.Before} {
		if r != nil {
			ok = ok && f(&r.Group) && f(&r.Task) && f(&r.From)
		}
	}
	return ok
}

// isPlain is for eachName: JSON has the string as it is.
func isPlain(s *string) bool { return utf8.ValidString(*s) && !strings.Contains(*s, "\x00") }

// escape makes valid UTF-8 of any bytes: those that are none, and NUL, which no path has,
// become NUL and the rune of that number.
func escape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == 0 || r == utf8.RuneError && n == 1 {
			b.WriteByte(0)
			b.WriteRune(rune(s[0]))
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// unescape is its inverse.
func unescape(s string) string {
	if !strings.Contains(s, "\x00") {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == 0 {
			if next, m := utf8.DecodeRuneInString(s[n:]); m > 0 && next <= 0xff {
				b.WriteByte(byte(next))
				s = s[n+m:]
				continue
			}
		}
		b.WriteString(s[:n])
		s = s[n:]
	}
	return b.String()
}
