package resctrl

// Schemata is what a control group may use: lines of a schemata file.
type Schemata []Line

// Line is one resource in some or all of its domains.
type Line struct {
	Resource string
	Kind     Kind
	Domains  []DomainValue // sorted by id
}

// DomainValue is the mask or the bandwidth in one domain.
type DomainValue struct {
	ID    int
	Value uint64
}

// Parse reads schemata: the kernel's own text, with its padding and in any order,
// or a user's, "L3:0=ff;1=f0x" or several lines. "L3" stands for both of L3CODE and
// L3DATA where those are what the host has, and the same for L2. The error names
// the line and the part of it that is wrong; nothing is checked against the host
// but that it has the resource.
func (in *Info) Parse(text string) (Schemata, error) { panic("A") }

// Rounding is a value that the kernel will change.
type Rounding struct {
	Resource       string
	Domain         int
	Wanted, Effect uint64
}

// Check validates schemata against this host as the kernel would: known resources
// and domains, none twice; masks within the width, with enough bits, without gaps
// unless they may have some; bandwidth not below the minimum or above the maximum.
// It returns what will be in effect, which differs where bandwidth is rounded up.
// The error joins all problems, each with line, domain, value, and what would do.
func (in *Info) Check(s Schemata) (effect Schemata, rounded []Rounding, err error) { panic("A") }

// Default is what the kernel gives a new group where no other is exclusive: all
// bits, and no limit of bandwidth. A resource whose maximum is not known is left out.
func (in *Info) Default() Schemata { panic("A") }

// Get returns one value.
func (s Schemata) Get(resource string, domain int) (uint64, bool) { panic("A") }

// Append appends s as it is written to a schemata file, one line a resource,
// each with its newline; masks in hexadecimal.
func (s Schemata) Append(b []byte) []byte { panic("A") }

// String is Append, lines separated by "; " less the newlines: for messages.
func (s Schemata) String() string { panic("A") }

// Overlay returns s with the values of o in place of its own, and those that it
// has not added. Neither is changed.
func (s Schemata) Overlay(o Schemata) Schemata { panic("A") }

// Changed returns the values of s that differ from those of old, or that old has
// not; nil if there are none.
func (s Schemata) Changed(old Schemata) Schemata { panic("A") }
