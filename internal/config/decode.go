package config

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v3"
)

// Options are what a decoding may need besides the file.
type Options struct {
	File string // its name, for messages
	// Env looks up the variable that !Env names; nil is os.LookupEnv.
	Env func(name string) (string, bool)
	// Previous is what an earlier call returned: a component whose tag and
	// resolved content are the same now is taken over with everything in it
	// rather than made anew, each at most once. Leave out what must not be.
	Previous []*Instance
	// Warn is told of deprecated fields, in the order of their positions.
	Warn func(Problem)
}

// Decode decodes data, one YAML document, into the struct, or the list of structs, that into
// points to; its tags are those of a component, and what it holds are the defaults. It
// returns the components in it, also those that are defaults, each after the
// components inside it.
//
// An alias of a component, also of one inside a mapping that is aliased or
// merged, is that same component; every other alias is a copy.
//
// The error is of type [Errors] and holds all problems of the file; the fields
// of into are then as they were.
func (r *Registry) Decode(data []byte, o Options, into any) ([]*Instance, error) {
	types := r.forRoot(reflect.TypeOf(into))
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	root, problems := parse(data)
	d := &decoder{
		Registry: r, o: o, types: types, problems: problems,
		bad: map[*nodePath]bool{}, made: map[*yaml.Node]*record{}, defaults: map[any]*record{},
	}
	out := reflect.New(reflect.TypeOf(into).Elem()).Elem()
	out.Set(reflect.ValueOf(into).Elem())
	if len(problems) == 0 {
		d.root = d.value(root, out, &limits{}, &nodePath{}).parts
		if len(d.problems) == 0 {
			d.reuse()
		}
		d.finish()
	}
	if o.Warn != nil {
		for _, w := range byPosition(d.warnings) {
			w.File = o.File
			o.Warn(w)
		}
	}
	if len(d.problems) > 0 {
		errs := Errors(byPosition(d.problems))
		for i := range errs {
			errs[i].File = o.File
		}
		return nil, errs
	}
	reflect.ValueOf(into).Elem().Set(out)
	return d.instances(), nil
}

// decoder is one call of Decode.
type decoder struct {
	*Registry
	o     Options
	types map[reflect.Type]*structType

	problems []Problem
	warnings []Problem
	bad      map[*nodePath]bool // there is a problem at or below

	root     []part
	owner    *record // the component whose fields are being decoded
	records  []*record
	made     map[*yaml.Node]*record // of tagged nodes
	defaults map[any]*record        // of components that are defaults
	puts     []func()               // entries of maps, inner ones first: their values are complete only at the end
	checks   []check                // inner ones first
}

// content is the resolved content of a node: its hash, and the components in it
// down to the next component, in an order that the hash determines.
type content struct {
	sum   [sha256.Size]byte
	parts []part
}

// hash returns the hash of a kind of node and its resolved content.
func hash(kind string, values ...[]byte) [sha256.Size]byte {
	h := sha256.New()
	var n [8]byte
	for _, b := range append([][]byte{[]byte(kind)}, values...) {
		binary.LittleEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (d *decoder) problem(n *yaml.Node, p *nodePath, format string, a ...any) {
	d.problems = append(d.problems, Problem{
		Line: n.Line, Column: n.Column, Path: p.String(), What: fmt.Sprintf(format, a...),
	})
	d.spoil(p)
}

// spoil notes that there is a problem at p.
func (d *decoder) spoil(p *nodePath) {
	for ; p != nil && !d.bad[p]; p = p.parent {
		d.bad[p] = true
	}
}

const envTag = "!Env"

func isLocal(tag string) bool { return strings.HasPrefix(tag, "!") && !strings.HasPrefix(tag, "!!") }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// target returns what an alias stands for, or n.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// badTag says what is wrong with n's tag, whatever it is to be decoded to.
func badTag(n *yaml.Node) string {
	var fits bool
	switch n.Tag {
	case "!!map":
		fits = n.Kind == yaml.MappingNode
	case "!!seq":
		fits = n.Kind == yaml.SequenceNode
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!merge":
		fits = n.Kind == yaml.ScalarNode
	default:
		if !isLocal(n.Tag) {
			return fmt.Sprintf("the tag %s is not supported (expected a component's, such as !Name, or none)", clip(n.Tag))
		}
		return ""
	}
	if !fits {
		return fmt.Sprintf("the tag %s does not suit what follows it", n.Tag)
	}
	return ""
}

func clip(s string) string { return strings.Trim(quote(s), `"`) }

// value decodes n into v, which can be set and holds the default.
func (d *decoder) value(n *yaml.Node, v reflect.Value, l *limits, p *nodePath) content {
	y := target(n)
	if what := badTag(y); what != "" {
		d.problem(n, p, "%s", what)
		return content{}
	}
	k := d.kind(v.Type())
	if y.Tag == envTag && y.Kind != yaml.ScalarNode {
		d.problem(n, p, "expected the name of a variable after !Env, found %s", shape(y))
		return content{}
	}
	switch {
	case k == kindComponent:
		return d.component(n, y, v, p)
	case k == kindPointer:
		if isNull(y) {
			v.SetZero()
			return content{sum: hash("null")}
		}
		elem := d.fresh(v.Type().Elem())
		if !v.IsNil() {
			elem.Set(v.Elem())
		}
		c := d.value(n, elem, l, p)
		v.Set(elem.Addr())
		return c
	case k == kindAny:
		var free any
		c := d.free(n, y, &free, l, p)
		if free == nil {
			v.SetZero()
		} else {
			v.Set(reflect.ValueOf(free))
		}
		return c
	case k.scalar():
		return d.scalar(n, y, v, l, p)
	case k == kindList && y.Kind == yaml.SequenceNode && !isLocal(y.Tag):
		return d.list(y, v, l, p)
	case k == kindList && d.kind(v.Type().Elem()) == kindComponent && y.Kind != yaml.SequenceNode && !isNull(y):
		return d.elements([]*yaml.Node{n}, v, l, func(int) *nodePath { return p })
	case k == kindMap && y.Kind == yaml.MappingNode && !isLocal(y.Tag):
		return d.mapping(y, v, l, p)
	case k == kindStruct && y.Kind == yaml.MappingNode && (!isLocal(y.Tag) || d.hasTag(v.Type(), y.Tag)):
		return d.structure(n, y, v, p)
	case k == kindStruct && isBareTag(y) && d.hasTag(v.Type(), y.Tag):
		return d.structure(n, &yaml.Node{Kind: yaml.MappingNode, Line: y.Line, Column: y.Column}, v, p)
	}
	d.problem(n, p, "expected %s, found %s", d.want(v.Type()), found(y, l.secret))
	return content{}
}

// hasTag reports whether tag is that of the component whose struct t is.
func (d *decoder) hasTag(t reflect.Type, tag string) bool {
	c := d.byTag[strings.TrimPrefix(tag, "!")]
	return c != nil && d.byType[reflect.PointerTo(t)] == c
}

// isBareTag reports whether n is a tag with nothing, or null, after it.
func isBareTag(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode || !isLocal(n.Tag) || n.Style&^yaml.TaggedStyle != 0 {
		return false
	}
	switch n.Value {
	case "", "~", "null", "Null", "NULL":
		return true
	}
	return false
}

func shape(n *yaml.Node) string {
	if n.Kind == yaml.SequenceNode {
		return "a list"
	}
	return "a mapping"
}

func (d *decoder) list(y *yaml.Node, v reflect.Value, l *limits, p *nodePath) content {
	return d.elements(y.Content, v, l, p.at)
}

func (d *decoder) elements(nodes []*yaml.Node, v reflect.Value, l *limits, at func(int) *nodePath) content {
	s := reflect.MakeSlice(v.Type(), len(nodes), len(nodes))
	var c content
	sums := make([][]byte, 0, len(nodes))
	for i, n := range nodes {
		elem := s.Index(i)
		if d.kind(elem.Type()) == kindStruct {
			elem.Set(d.fresh(elem.Type()))
		}
		inner := d.value(n, elem, l, at(i))
		sums = append(sums, inner.sum[:])
		c.parts = append(c.parts, inner.parts...)
	}
	v.Set(s)
	c.sum = hash("list", sums...)
	return c
}

func (d *decoder) mapping(y *yaml.Node, v reflect.Value, l *limits, p *nodePath) content {
	m := reflect.MakeMap(v.Type())
	v.Set(m)
	return d.entries(y, p, func(pr pair, p *nodePath) content {
		if n := utf8.RuneCountInString(pr.key); n > l.maxlen {
			d.problem(pr.at, p, "the key has %d characters (expected at most %d)", n, l.maxlen)
		}
		elem := d.fresh(v.Type().Elem())
		c := d.value(pr.value, elem, l, p)
		d.puts = append(d.puts, func() {
			m.SetMapIndex(reflect.ValueOf(pr.key).Convert(v.Type().Key()), elem)
		})
		return c
	})
}

// entries decodes each entry of a mapping with free keys.
func (d *decoder) entries(y *yaml.Node, p *nodePath, entry func(pair, *nodePath) content) content {
	prs := d.pairs(y, p)
	inner := make(map[string]content, len(prs))
	keys := make([]string, 0, len(prs))
	for _, pr := range prs {
		inner[pr.key] = entry(pr, p.key(pr.key))
		keys = append(keys, pr.key)
	}
	slices.Sort(keys)
	var c content
	sums := make([][]byte, 0, 2*len(keys))
	for _, k := range keys {
		sum := inner[k].sum
		sums = append(sums, []byte(k), sum[:])
		c.parts = append(c.parts, inner[k].parts...)
	}
	c.sum = hash("map", sums...)
	return c
}

// pair is a key and its value, and the mapping that they come from: not the one
// that they are in, if merged.
type pair struct {
	key       string
	at, value *yaml.Node
	from      *yaml.Node
}

// pairs returns the pairs of a mapping, each key once: its own, then those that
// "<<" merges into it, as far as they are not there yet
// (https://yaml.org/type/merge.html).
func (d *decoder) pairs(m *yaml.Node, p *nodePath) []pair {
	var prs []pair
	var merged []*yaml.Node
	first := make(map[string]*yaml.Node, len(m.Content)/2)
	for i := 0; i+1 < len(m.Content); i += 2 {
		at, value := m.Content[i], m.Content[i+1]
		switch key := target(at); {
		case key.Tag == "!!merge":
			if merged != nil {
				d.problem(at, p, `duplicate key "<<" (merge a list of mappings instead)`)
			}
			from := []*yaml.Node{value}
			if t := target(value); t.Kind == yaml.SequenceNode {
				from = t.Content
			}
			merged = append(merged, from...)
		case key.Kind != yaml.ScalarNode:
			d.problem(at, p, "expected a string as key, found %s", shape(key))
		case key.Tag == "!!null":
			d.problem(at, p, "expected a string as key, found nothing")
		case key.Tag != "!!str" && key.Tag != "!!timestamp":
			d.problem(at, p, "expected a string as key, found %s (put it into quotes)", found(key, false))
		case first[key.Value] != nil:
			d.problem(at, p.key(key.Value), "duplicate key %s (first at line %d)", quote(key.Value), first[key.Value].Line)
		default:
			first[key.Value] = at
			prs = append(prs, pair{key.Value, at, value, m})
		}
	}
	for _, from := range merged {
		t := target(from)
		if t.Kind != yaml.MappingNode {
			d.problem(from, p, `expected a mapping, or a list of them, after "<<", found %s`, found(t, true))
			continue
		}
		for _, pr := range d.pairs(t, p) {
			if first[pr.key] == nil {
				first[pr.key] = pr.at
				prs = append(prs, pr)
			}
		}
	}
	return prs
}

// structure decodes the mapping y into v, a struct, and has it checked.
func (d *decoder) structure(n, y *yaml.Node, v reflect.Value, p *nodePath) content {
	st := d.types[v.Type()]
	given := make(map[*field]pair, len(y.Content)/2)
	contents := make(map[*field]content, len(y.Content)/2)
	for _, pr := range d.pairs(y, p) {
		f := st.byName[pr.key]
		fp := p.key(pr.key)
		if f == nil {
			d.problem(pr.at, fp, "%s", unknownField(pr.key, st.names(), st.byName))
			continue
		}
		if before, twice := given[f]; twice {
			// A merged one gives way, as if its name were the same.
			if before.from == pr.from {
				d.problem(pr.at, fp, "%q and %q are names of the same field (keep %q)", before.key, pr.key, f.name)
			}
			continue
		}
		given[f] = pr
		if f.deprecated != "" {
			d.warnings = append(d.warnings, Problem{
				Line: pr.at.Line, Column: pr.at.Column, Path: fp.String(), What: "deprecated: " + f.deprecated,
			})
		}
		if isNull(target(pr.value)) && f.typ.Kind() != reflect.Pointer {
			continue // the default
		}
		contents[f] = d.value(pr.value, v.FieldByIndex(f.index), &f.limits, fp)
	}

	var c content
	var sums [][]byte
	for _, f := range st.fields {
		inner, decoded := contents[f]
		pr, ok := given[f]
		if f.required && (!ok || isNull(target(pr.value))) {
			at, what := n, "missing field"
			if ok {
				at, what = pr.value, "null in the field"
			}
			d.problem(at, p.key(f.name), "%s %q: expected %s", what, f.name, d.want(f.typ))
		}
		if !decoded {
			c.parts = append(c.parts, d.adopt(v.FieldByIndex(f.index), n, p.key(f.name), f.owner)...)
			continue
		}
		sums = append(sums, []byte(f.name), inner.sum[:])
		c.parts = append(c.parts, inner.parts...)
	}
	c.sum = hash("struct", sums...)
	d.checks = append(d.checks, check{v: v.Addr(), at: n, path: p, owner: d.owner, fields: st.byName, given: given})
	return c
}

func unknownField(name string, names []string, byName map[string]*field) string {
	var all []string // with the aliases
	for _, n := range names {
		all = append(all, n)
		all = append(all, byName[n].aliases...)
	}
	switch near := nearest(name, all); {
	case len(names) == 0:
		return fmt.Sprintf("unknown field %s (there are no fields here)", quote(name))
	case near != "":
		return fmt.Sprintf("unknown field %s (did you mean %q?)", quote(name), near)
	default:
		return fmt.Sprintf("unknown field %s (expected one of: %s)", quote(name), strings.Join(names, ", "))
	}
}

// component decodes y, which n stands for, into v, a slot for a component.
func (d *decoder) component(n, y *yaml.Node, v reflect.Value, p *nodePath) content {
	t := v.Type()
	if rec := d.made[y]; rec != nil {
		if d.bad[rec.path] {
			d.spoil(p) // said there
		} else if !rec.value.Type().AssignableTo(t) {
			return d.unfit(n, p, t, rec.tag)
		}
		return content{sum: rec.sum, parts: []part{{rec, v.Set}}}
	}
	var c *Component
	fields := y
	switch {
	case isNull(y) && t.Kind() == reflect.Pointer:
		v.SetZero()
		return content{sum: hash("null")}
	case isLocal(y.Tag) && y.Tag != envTag:
		if c = d.byTag[y.Tag[1:]]; c == nil {
			d.unknownTag(n, y.Tag, p, t)
			return content{}
		}
		if isBareTag(y) {
			fields = &yaml.Node{Kind: yaml.MappingNode}
		}
		if fields.Kind != yaml.MappingNode {
			what := found(&yaml.Node{Kind: y.Kind, Tag: "!!str"}, true)
			d.problem(n, p, "expected the fields of %s or nothing after it, found %s", y.Tag, what)
			return content{}
		}
	case y.Kind == yaml.MappingNode && d.byType[t] != nil:
		c = d.byType[t]
	case y.Kind == yaml.ScalarNode && y.Tag == "!!str" && d.byTag[y.Value] != nil:
		d.problem(n, p, "expected %s, found the text %q (write !%s)", d.want(t), y.Value, y.Value)
		return content{}
	default:
		d.problem(n, p, "expected %s, found %s", d.want(t), found(y, true))
		return content{}
	}
	made := reflect.ValueOf(c.New())
	rec := &record{tag: c.Tag, path: p, at: y, value: made}
	outer := d.owner
	d.owner = rec
	inner := d.structure(y, fields, made.Elem(), p)
	d.owner = outer
	rec.sum = hash("component", []byte(c.Tag), inner.sum[:])
	rec.parts = inner.parts
	d.records = append(d.records, rec)
	d.made[y] = rec
	if !made.Type().AssignableTo(t) {
		return d.unfit(n, p, t, c.Tag)
	}
	return content{sum: rec.sum, parts: []part{{rec, v.Set}}}
}

func (d *decoder) unfit(n *yaml.Node, p *nodePath, t reflect.Type, tag string) content {
	d.problem(n, p, "!%s does not fit here: expected %s", tag, d.want(t))
	return content{}
}

func (d *decoder) unknownTag(n *yaml.Node, tag string, p *nodePath, t reflect.Type) {
	fitting := d.fitting(t)
	near := nearest(tag, fitting)
	if near == "" {
		var all []string
		for _, c := range d.components {
			all = append(all, "!"+c.Tag)
		}
		near = nearest(tag, all)
	}
	if near != "" {
		near = " (did you mean " + near + "?)"
	}
	d.problem(n, p, "unknown component %s%s: expected %s", clip(tag), near, d.want(t))
}

// free decodes n into whatever it is.
func (d *decoder) free(n, y *yaml.Node, into *any, l *limits, p *nodePath) content {
	if what := badTag(y); what != "" {
		d.problem(n, p, "%s", what)
		return content{}
	}
	switch {
	case isLocal(y.Tag) && (y.Tag != envTag || y.Kind != yaml.ScalarNode):
		d.problem(n, p, "expected a value without a tag, found %s", found(y, true))
		return content{}
	case y.Kind == yaml.MappingNode:
		m := make(map[string]any, len(y.Content)/2)
		*into = m
		return d.entries(y, p, func(pr pair, p *nodePath) content {
			var elem any
			c := d.free(pr.value, target(pr.value), &elem, l, p)
			m[pr.key] = elem
			return c
		})
	case y.Kind == yaml.SequenceNode:
		list := make([]any, len(y.Content))
		sums := make([][]byte, 0, len(list))
		for i, n := range y.Content {
			c := d.free(n, target(n), &list[i], l, p.at(i))
			sums = append(sums, c.sum[:])
		}
		*into = list
		return content{sum: hash("list", sums...)}
	case isNull(y):
		return content{sum: hash("null")}
	}
	var v reflect.Value
	switch y.Tag {
	case "!!bool":
		v = reflect.New(reflect.TypeFor[bool]()).Elem()
	case "!!float":
		v = reflect.New(reflect.TypeFor[float64]()).Elem()
	case "!!int":
		v = reflect.New(reflect.TypeFor[int64]()).Elem()
		if _, err := parseInt(y.Value, 64); errors.Is(err, strconv.ErrRange) {
			v = reflect.New(reflect.TypeFor[uint64]()).Elem()
		}
	default:
		v = reflect.New(reflect.TypeFor[string]()).Elem()
	}
	c := d.scalar(n, y, v, l, p)
	*into = v.Interface()
	return c
}

// want describes what a t is decoded from, to follow "expected".
func (d *decoder) want(t reflect.Type) string {
	switch d.kind(t) {
	case kindString:
		return "a string"
	case kindBool:
		return "true or false"
	case kindInt, kindUint:
		return "a whole number"
	case kindFloat:
		return "a number"
	case kindDuration:
		return "a number of seconds or a duration such as 500ms"
	case kindPointer:
		return d.want(t.Elem())
	case kindList:
		return "a list of " + d.plural(t.Elem())
	case kindMap:
		return "a mapping of names to " + d.plural(t.Elem())
	case kindStruct:
		return "a mapping of the fields " + strings.Join(d.types[t].names(), ", ")
	case kindComponent:
		name, fitting := d.slotName(t), d.fitting(t)
		article := "a "
		if strings.ContainsRune("AEIOU", rune(name[0])) {
			article = "an "
		}
		if len(fitting) == 0 {
			return article + name + ", of which there is none"
		}
		return article + name + " (" + strings.Join(fitting, ", ") + ")"
	}
	return "a single value"
}

// slotName is how people call what goes into a slot for components.
func (r *Registry) slotName(t reflect.Type) string {
	if c := r.byType[t]; c != nil {
		return c.Tag
	}
	if t.Name() == "" {
		return t.String()
	}
	return t.Name()
}

// plural names the elements of a list or a mapping.
func (r *Registry) plural(t reflect.Type) string {
	switch r.kind(t) {
	case kindString:
		return "strings"
	case kindBool:
		return "booleans"
	case kindInt, kindUint:
		return "whole numbers"
	case kindFloat:
		return "numbers"
	case kindDuration:
		return "durations"
	case kindPointer:
		return r.plural(t.Elem())
	case kindList:
		return "lists of " + r.plural(t.Elem())
	case kindMap:
		return "mappings of names to " + r.plural(t.Elem())
	case kindStruct:
		return "mappings"
	case kindComponent:
		return "components (" + r.slotName(t) + ")"
	}
	return "values"
}
