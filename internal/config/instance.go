package config

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// An Instance is a component that a file, or a default of a component in it,
// made.
type Instance struct {
	Path string // "$.runner.node"; where it is first, if aliases repeat it
	Tag  string // without the "!"
	// Fingerprint is equal for equal tags and resolved contents: aliases,
	// merges and environment replaced, whatever the order of keys, the format
	// and the comments.
	Fingerprint [sha256.Size]byte
	Value       any // what Component.New returned, decoded
	Reused      bool
	Line        int // of the tag; for a default, of the component that has it

	parts []*Instance // the components in it, in an order that Fingerprint determines
}

// record is an Instance in the making.
type record struct {
	tag   string
	path  *nodePath
	at    *yaml.Node
	sum   [sha256.Size]byte
	value reflect.Value // a pointer
	parts []part
	old   *Instance // taken over
	out   *Instance
}

// part is a component in another one, and how to put it there.
type part struct {
	rec *record
	set func(reflect.Value)
}

// adopt makes records of the components that v, the default of a field, holds.
// seed names the field.
func (d *decoder) adopt(v reflect.Value, at *yaml.Node, p *nodePath, seed string) []part {
	var parts []part
	switch d.kind(v.Type()) {
	case kindComponent:
		if v.IsNil() {
			return nil
		}
		value := v
		if v.Kind() == reflect.Interface {
			value = v.Elem()
		}
		c := d.byType[value.Type()]
		if c == nil {
			return nil // in the struct to decode into: the caller's
		}
		// Zero-sized ones may be equal without being the same.
		same := value.Type().Elem().Size() > 0
		rec := d.defaults[value.Interface()]
		if rec == nil || !same {
			rec = &record{tag: c.Tag, path: p, at: at, value: value, sum: hash("default", []byte(c.Tag), []byte(seed))}
			rec.parts = d.adoptFields(value.Elem(), at, p, seed)
			d.records = append(d.records, rec)
			if same {
				d.defaults[value.Interface()] = rec
			}
		}
		return []part{{rec, v.Set}}
	case kindPointer:
		if !v.IsNil() {
			return d.adopt(v.Elem(), at, p, seed)
		}
	case kindStruct:
		return d.adoptFields(v, at, p, seed)
	case kindList:
		for i := range v.Len() {
			parts = append(parts, d.adopt(v.Index(i), at, p.at(i), seed+strconv.Itoa(i))...)
		}
	case kindMap:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
		for _, k := range keys {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(v.MapIndex(k))
			inner := d.adopt(elem, at, p.key(k.String()), seed+strconv.Quote(k.String()))
			if len(inner) > 0 {
				d.puts = append(d.puts, func() { v.SetMapIndex(k, elem) })
			}
			parts = append(parts, inner...)
		}
	}
	return parts
}

func (d *decoder) adoptFields(v reflect.Value, at *yaml.Node, p *nodePath, seed string) []part {
	var parts []part
	for _, f := range d.types[v.Type()].fields {
		parts = append(parts, d.adopt(v.FieldByIndex(f.index), at, p.key(f.name), seed+"."+f.name)...)
	}
	return parts
}

// reuse finds for each record the instance to take over, if there is one: outer
// records first, each with all that is in it, so that no instance ends up both
// inside another one and on its own.
func (d *decoder) reuse() {
	type place struct {
		sum  [sha256.Size]byte
		path string
	}
	offered := make(map[*Instance]bool, len(d.o.Previous))
	bySum := map[[sha256.Size]byte][]*Instance{}
	byPlace := map[place]*Instance{}
	for _, old := range d.o.Previous {
		offered[old] = true
		bySum[old.Fingerprint] = append(bySum[old.Fingerprint], old)
		byPlace[place{old.Fingerprint, old.Path}] = old
	}
	taken := map[*Instance]bool{}
	for _, rec := range slices.Backward(d.records) {
		if rec.old != nil || len(bySum[rec.sum]) == 0 {
			continue
		}
		take := func(old *Instance) bool {
			trial := map[*record]*Instance{}
			if !match(rec, old, offered, taken, trial, map[*Instance]bool{}) {
				return false
			}
			for rec, old := range trial {
				rec.old = old
				taken[old] = true
			}
			return true
		}
		if here := byPlace[place{rec.sum, rec.path.String()}]; here != nil && take(here) {
			continue
		}
		candidates := bySum[rec.sum]
		for len(candidates) > 0 && taken[candidates[0]] {
			candidates = candidates[1:]
		}
		bySum[rec.sum] = candidates
		for _, old := range candidates {
			if take(old) {
				break
			}
		}
	}
}

// match reports whether old and everything in it can be rec and everything in
// it, and adds the pairs to trial and used.
func match(rec *record, old *Instance, offered, taken map[*Instance]bool, trial map[*record]*Instance, used map[*Instance]bool) bool {
	if rec.old != nil {
		return rec.old == old
	}
	if got := trial[rec]; got != nil {
		return got == old
	}
	if !offered[old] || taken[old] || used[old] || rec.sum != old.Fingerprint || len(rec.parts) != len(old.parts) {
		return false
	}
	trial[rec], used[old] = old, true
	for i, part := range rec.parts {
		if !match(part.rec, old.parts[i], offered, taken, trial, used) {
			return false
		}
	}
	return true
}

// finish puts every component into its slots and has everything checked that
// was decoded without a problem.
func (d *decoder) finish() {
	put := func(parts []part) {
		for _, part := range parts {
			if old := part.rec.old; old != nil {
				part.set(reflect.ValueOf(old.Value))
			} else {
				part.set(part.rec.value)
			}
		}
	}
	put(d.root)
	for _, rec := range d.records {
		put(rec.parts)
	}
	for _, put := range d.puts {
		put()
	}
	for _, c := range d.checks {
		if !d.bad[c.path] && (c.owner == nil || c.owner.old == nil) {
			d.check(c)
		}
	}
}

// check is a struct to be asked whether it is valid.
type check struct {
	v      reflect.Value // a pointer
	at     *yaml.Node
	path   *nodePath
	owner  *record // the component that it is (in), nil above the first one
	fields map[string]*field
	given  map[*field]pair
}

func (d *decoder) check(c check) {
	v, ok := c.v.Interface().(interface{ Validate() error })
	if !ok {
		return
	}
	for _, err := range leaves(v.Validate()) {
		at, p := c.at, c.path
		var of interface{ Field() string }
		if errors.As(err, &of) {
			name := of.Field()
			if f := c.fields[name]; f != nil {
				if pr, ok := c.given[f]; ok {
					at, name = pr.value, pr.key
				}
			}
			p = p.key(name)
		}
		d.problem(at, p, "%v", err)
	}
}

// leaves returns the errors that errors.Join joined into err.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var errs []error
	var text []string
	for _, e := range joined.Unwrap() {
		errs = append(errs, leaves(e)...)
		text = append(text, e.Error())
	}
	if strings.Join(text, "\n") != err.Error() {
		return []error{err} // fmt.Errorf with text of its own
	}
	return errs
}

// instances returns the records as instances.
func (d *decoder) instances() []*Instance {
	out := make([]*Instance, len(d.records))
	for i, rec := range d.records {
		rec.out = &Instance{
			Path: rec.path.String(), Tag: rec.tag, Fingerprint: rec.sum, Value: rec.value.Interface(), Line: rec.at.Line,
		}
		if rec.old != nil {
			rec.out.Value, rec.out.Reused = rec.old.Value, true
		}
		for _, part := range rec.parts {
			rec.out.parts = append(rec.out.parts, part.rec.out)
		}
		out[i] = rec.out
	}
	return out
}
