// Package config turns a configuration file into components: the original's
// YAML, where a tag names the component that a mapping configures.
//
//	runner: !MeasurementRunner
//	  action_delay: 1.
//	  node: !MesosNode
//	    timeout: 5
//
// A component is a pointer to a struct; its exported fields are what can be
// configured, and struct tags say how. A component imports nothing of this
// package:
//
//	yaml:"name"          the field's name; "-" takes it out; every exported field has one
//	alias:"old,older"    other names that are accepted; two at once is an error
//	help:"…"             one sentence for people
//	required:"true"      must be given, and not null
//	range:"0.05..60"     inclusive; numbers, and durations in seconds; either end may be missing
//	enum:"a,b"           a string is one of these
//	format:"url"         see below
//	maxlen:"400"         a string's characters; 400 unless told
//	secret:"true"        the value appears in no message and no document
//	deprecated:"use x"   accepted with a warning
//	example:"[a, b]"     YAML for the reference page, where the default doesn't do
//
// Formats: url (http or https, with a host), path (no ".." element), ipport
// (host or address, ":", port), hostport (the same, the host may be empty, the
// port 0), regexp (Go syntax), glob (path.Match). Constraints on a list, map or
// pointer hold for its elements.
//
// A field is a string, bool, integer, float, time.Duration (a number of seconds
// or Go's text), an encoding.TextUnmarshaler, a slice, a map with string keys, a
// pointer (null is nil), a struct, any (free YAML: map[string]any, []any, string,
// int64, uint64, float64, bool, nil), or an interface that a component
// implements. An embedded struct's fields are its owner's. A field that is a
// pointer to a component's struct takes that component, with or without its tag.
// Null leaves a field that is no pointer at its default. A list of components
// may be a single component instead.
//
// Any struct may have a method Validate() error. It is called after its fields
// were decoded without a problem and everything in them is final, and must not
// change them; what [errors.Join] joined becomes a problem each, positioned at
// the field that an error's method Field() string names. It must not put the
// value of a secret into its message.
package config

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Component is one kind of component that a file can name.
type Component struct {
	Tag  string // without the "!", as "MesosNode"
	Help string // one or more sentences for people
	// New returns a pointer to a struct that holds the defaults. The pointer is
	// the component: it implements the interface of the field it goes into. New
	// does no I/O; what it returns shares nothing with what it returned before.
	New func() any
}

// A Registry is a fixed list of components. It may be used concurrently.
type Registry struct {
	components []*Component
	goTypes    []reflect.Type // what New of each returns
	byTag      map[string]*Component
	byType     map[reflect.Type]*Component // by what New returns; the first of several
	structs    map[reflect.Type]*structType
}

var tagName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.]*$`)

// NewRegistry returns a registry of the components given. It panics on what
// only a programmer can get wrong: a tag twice, a field that cannot be
// configured, a constraint that does not suit its field, a default that is not
// a registered component.
func NewRegistry(components ...Component) *Registry {
	r := &Registry{
		byTag:   map[string]*Component{},
		byType:  map[reflect.Type]*Component{},
		structs: map[reflect.Type]*structType{},
	}
	for i := range components {
		c := &components[i]
		switch {
		case !tagName.MatchString(c.Tag) || c.Tag == "Env":
			panic(fmt.Sprintf("config: %q cannot be the tag of a component", c.Tag))
		case r.byTag[c.Tag] != nil:
			panic(fmt.Sprintf("config: two components have the tag %q", c.Tag))
		}
		t := reflect.TypeOf(c.New())
		if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
			panic(fmt.Sprintf("config: New of %q returns %v, not a pointer to a struct", c.Tag, t))
		}
		r.components = append(r.components, c)
		r.goTypes = append(r.goTypes, t)
		r.byTag[c.Tag] = c
		if r.byType[t] == nil {
			r.byType[t] = c
		}
	}
	// Only now are all types known that fields may hold.
	for _, c := range r.components {
		v := reflect.ValueOf(c.New()).Elem()
		r.compile(r.structs, v.Type())
		r.eachDefault(r.structs, v, func(slot reflect.Value) {
			if t := slot.Elem().Type(); slot.Kind() == reflect.Interface && r.byType[t] == nil {
				panic(fmt.Sprintf("config: a default of %q is a %v, which is not registered", c.Tag, t))
			}
		})
	}
	return r
}

// Nearest returns the tag that name is probably a typo of, or "".
func (r *Registry) Nearest(name string) string {
	tags := make([]string, len(r.components))
	for i, c := range r.components {
		tags[i] = c.Tag
	}
	return nearest(strings.TrimPrefix(name, "!"), tags)
}

// fitting returns the tags, with "!", of the components that can go into a
// field of type t.
func (r *Registry) fitting(t reflect.Type) []string {
	var tags []string
	for i, c := range r.components {
		if r.goTypes[i].AssignableTo(t) {
			tags = append(tags, "!"+c.Tag)
		}
	}
	return tags
}

// kind is how a Go type is configured.
type kind int

const (
	kindInvalid kind = iota
	kindString
	kindBool
	kindInt
	kindUint
	kindFloat
	kindDuration
	kindText      // encoding.TextUnmarshaler
	kindAny       // free YAML
	kindComponent // an interface, or a pointer to a registered component's struct
	kindPointer
	kindList
	kindMap
	kindStruct
)

func (k kind) scalar() bool { return k >= kindString && k <= kindText }

func (r *Registry) kind(t reflect.Type) kind {
	switch {
	case r.byType[t] != nil:
		return kindComponent
	case t == reflect.TypeFor[time.Duration]():
		return kindDuration
	case t.Kind() != reflect.Interface && t.Kind() != reflect.Pointer &&
		reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return kindText
	}
	switch t.Kind() {
	case reflect.String:
		return kindString
	case reflect.Bool:
		return kindBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return kindInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return kindUint
	case reflect.Float32, reflect.Float64:
		return kindFloat
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return kindAny
		}
		return kindComponent
	case reflect.Pointer:
		return kindPointer
	case reflect.Slice:
		return kindList
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return kindMap
		}
	case reflect.Struct:
		return kindStruct
	}
	return kindInvalid
}

// leaf returns the type of the scalars in a field of type t.
func (r *Registry) leaf(t reflect.Type) reflect.Type {
	for {
		switch r.kind(t) {
		case kindPointer, kindList, kindMap:
			t = t.Elem()
		default:
			return t
		}
	}
}

// structType is what is known of a struct's fields.
type structType struct {
	fields []*field // in the order of their declaration
	byName map[string]*field
}

func (s *structType) names() []string {
	names := make([]string, len(s.fields))
	for i, f := range s.fields {
		names[i] = f.name
	}
	return names
}

// field is one configurable field.
type field struct {
	name       string
	aliases    []string
	index      []int // for reflect.Value.FieldByIndex
	typ        reflect.Type
	owner      string // its struct and name in Go, for messages to programmers and as a stable name
	help       string
	deprecated string
	example    string
	required   bool
	limits     limits
}

// limits are the constraints on each scalar of a field.
type limits struct {
	rangeText string // "" = none
	min, max  float64
	enum      []string
	format    string
	maxlen    int
	secret    bool
}

const defaultMaxlen = 400

// compile makes types hold t, a struct, and every struct it can contain.
func (r *Registry) compile(types map[reflect.Type]*structType, t reflect.Type) {
	if types[t] != nil {
		return
	}
	s := &structType{byName: map[string]*field{}}
	types[t] = s // before its fields: a type may contain itself
	r.addFields(types, s, t, nil)
}

func (r *Registry) addFields(types map[reflect.Type]*structType, s *structType, t reflect.Type, index []int) {
	for i := range t.NumField() {
		sf := t.Field(i)
		at := append(slices.Clone(index), i)
		name, named := sf.Tag.Lookup("yaml")
		switch {
		case name == "-":
			continue
		case sf.Anonymous && !named && sf.Type.Kind() == reflect.Struct:
			r.addFields(types, s, sf.Type, at)
			continue
		case !sf.IsExported():
			continue
		}
		f := newField(r, t, sf, name)
		f.index = at
		s.fields = append(s.fields, f)
		for _, n := range append([]string{f.name}, f.aliases...) {
			if s.byName[n] != nil {
				f.panicf("the name %q is taken", n)
			}
			s.byName[n] = f
		}
		r.compileType(types, f, sf.Type)
	}
}

func (r *Registry) compileType(types map[reflect.Type]*structType, f *field, t reflect.Type) {
	switch r.kind(t) {
	case kindInvalid:
		f.panicf("a %v cannot be configured", t)
	case kindPointer, kindList, kindMap:
		r.compileType(types, f, t.Elem())
	case kindStruct:
		r.compile(types, t)
	}
}

var fieldName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

func newField(r *Registry, t reflect.Type, sf reflect.StructField, name string) *field {
	f := &field{
		name:       name,
		typ:        sf.Type,
		owner:      t.String() + "." + sf.Name,
		help:       sf.Tag.Get("help"),
		deprecated: sf.Tag.Get("deprecated"),
		example:    sf.Tag.Get("example"),
		limits:     limits{format: sf.Tag.Get("format"), maxlen: defaultMaxlen},
	}
	list := func(key string) []string {
		s, ok := sf.Tag.Lookup(key)
		if !ok {
			return nil
		}
		return strings.Split(s, ",")
	}
	flag := func(key string) bool {
		s, ok := sf.Tag.Lookup(key)
		b, err := strconv.ParseBool(s)
		if ok && err != nil {
			f.panicf("%s is %q, neither true nor false", key, s)
		}
		return b
	}
	f.aliases = list("alias")
	f.required = flag("required")
	f.limits.secret = flag("secret")
	f.limits.enum = list("enum")
	for _, n := range append([]string{f.name}, f.aliases...) {
		if !fieldName.MatchString(n) {
			f.panicf("%q is no name for a field (a yaml tag is needed, \"-\" to leave it out)", n)
		}
	}

	leaf := r.kind(r.leaf(sf.Type))
	isString := leaf == kindString || leaf == kindText
	if text, ok := sf.Tag.Lookup("range"); ok {
		var err error
		if f.limits.min, f.limits.max, err = parseRange(text); err != nil {
			f.panicf("%v", err)
		}
		if leaf < kindInt || leaf > kindDuration {
			f.panicf("a range needs a number or a duration")
		}
		f.limits.rangeText = text
	}
	if f.limits.enum != nil && leaf != kindString {
		f.panicf("an enum needs a string")
	}
	if f.limits.format != "" {
		if leaf != kindString {
			f.panicf("a format needs a string")
		}
		if !slices.Contains([]string{"url", "path", "ipport", "hostport", "regexp", "glob"}, f.limits.format) {
			f.panicf("there is no format %q", f.limits.format)
		}
	}
	if text, ok := sf.Tag.Lookup("maxlen"); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || !isString {
			f.panicf("maxlen %q needs a string and a number", text)
		}
		f.limits.maxlen = n
	}
	return f
}

func (f *field) panicf(format string, a ...any) {
	panic("config: " + f.owner + ": " + fmt.Sprintf(format, a...))
}

// eachDefault calls f with every slot in v, a struct, that holds a component:
// an interface or a pointer that is not nil.
func (r *Registry) eachDefault(types map[reflect.Type]*structType, v reflect.Value, f func(slot reflect.Value)) {
	var visit func(v reflect.Value)
	visit = func(v reflect.Value) {
		switch r.kind(v.Type()) {
		case kindComponent:
			if !v.IsNil() {
				f(v)
			}
		case kindPointer:
			if !v.IsNil() {
				visit(v.Elem())
			}
		case kindStruct:
			r.eachDefault(types, v, f)
		case kindList:
			for i := range v.Len() {
				visit(v.Index(i))
			}
		case kindMap:
			for _, k := range v.MapKeys() {
				visit(v.MapIndex(k))
			}
		}
	}
	for _, field := range types[v.Type()].fields {
		visit(v.FieldByIndex(field.index))
	}
}

// forRoot returns the struct types including those of t, a pointer to a struct, or to a
// list of structs, to decode into.
func (r *Registry) forRoot(t reflect.Type) map[reflect.Type]*structType {
	into := t
	if t != nil && t.Kind() == reflect.Pointer {
		if into = t.Elem(); into.Kind() == reflect.Slice {
			into = into.Elem()
		}
	}
	if into == nil || into == t || into.Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: cannot decode into a %v, only into a pointer to a struct, or to a list of structs", t))
	}
	types := maps.Clone(r.structs)
	r.compile(types, into)
	return types
}
