package config

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"
)

// ComponentDoc describes a component.
type ComponentDoc struct {
	Tag        string     `json:"tag"` // without the "!"
	Help       string     `json:"help"`
	Implements []string   `json:"implements"` // of the interfaces asked about
	Fields     []FieldDoc `json:"fields"`
	Example    string     `json:"example"` // YAML that decodes
}

// FieldDoc describes a field.
type FieldDoc struct {
	Name       string     `json:"name"`
	Aliases    []string   `json:"aliases,omitempty"`
	Type       string     `json:"type"`              // "list of strings", "component (Storage)", …
	Default    string     `json:"default,omitempty"` // YAML; "" for one that is required, secret or no text
	Range      string     `json:"range,omitempty"`
	Enum       []string   `json:"enum,omitempty"`
	Format     string     `json:"format,omitempty"`
	MaxLength  int        `json:"maxLength,omitempty"` // of strings
	Required   bool       `json:"required,omitempty"`
	Secret     bool       `json:"secret,omitempty"`
	Help       string     `json:"help,omitempty"`
	Deprecated string     `json:"deprecated,omitempty"`
	Fields     []FieldDoc `json:"fields,omitempty"` // of a struct, or of those in a list or map
}

// Describe describes all components in the order in which they were given.
func (r *Registry) Describe(interfaces ...reflect.Type) []ComponentDoc {
	docs := make([]ComponentDoc, len(r.components))
	for i, c := range r.components {
		v := reflect.ValueOf(c.New())
		docs[i] = ComponentDoc{
			Tag:        c.Tag,
			Help:       c.Help,
			Implements: []string{},
			Fields:     r.describe(v.Elem(), nil),
		}
		slot := strings.ToLower(c.Tag)
		for j, t := range interfaces {
			if v.Type().Implements(t) {
				docs[i].Implements = append(docs[i].Implements, t.Name())
				if len(docs[i].Implements) == 1 {
					slot = strings.ToLower(interfaces[j].Name())
				}
			}
		}
		docs[i].Example = block(mapNode(strNode(slot), r.example(c, nil)))
	}
	return docs
}

// describe describes the fields of v, a struct; outer are the structs it is in.
func (r *Registry) describe(v reflect.Value, outer []reflect.Type) []FieldDoc {
	st := r.structs[v.Type()]
	docs := make([]FieldDoc, len(st.fields))
	outer = append(slices.Clone(outer), v.Type())
	for i, f := range st.fields {
		value := v.FieldByIndex(f.index)
		docs[i] = FieldDoc{
			Name: f.name, Aliases: f.aliases, Type: r.typeName(f.typ),
			Range: f.limits.rangeText, Enum: f.limits.enum, Format: f.limits.format,
			Required: f.required, Secret: f.limits.secret, Help: f.help, Deprecated: f.deprecated,
		}
		leaf := r.leaf(f.typ)
		if k := r.kind(leaf); k == kindString || k == kindText {
			docs[i].MaxLength = f.limits.maxlen
		}
		if !f.required && !f.limits.secret {
			if n, ok := r.node(value); ok {
				docs[i].Default = flow(n)
			}
		}
		if r.kind(leaf) == kindStruct && !slices.Contains(outer, leaf) {
			of := r.fresh(leaf)
			if value.Type() == leaf {
				of = value
			}
			docs[i].Fields = r.describe(of, outer)
		}
	}
	return docs
}

func (r *Registry) typeName(t reflect.Type) string {
	switch r.kind(t) {
	case kindString:
		return "string"
	case kindBool:
		return "true or false"
	case kindInt, kindUint:
		return "whole number"
	case kindFloat:
		return "number"
	case kindDuration:
		return "number of seconds or duration"
	case kindText:
		return "text (" + t.Name() + ")"
	case kindAny:
		return "anything"
	case kindPointer:
		return r.typeName(t.Elem()) + " or null"
	case kindList:
		return "list of " + r.plural(t.Elem())
	case kindMap:
		return "map of names to " + r.plural(t.Elem())
	case kindStruct:
		return "mapping"
	}
	return "component (" + r.slotName(t) + ")"
}

// node returns v, a default, as YAML; false if it has no text.
func (r *Registry) node(v reflect.Value) (*yaml.Node, bool) {
	plain := func(tag, value string) (*yaml.Node, bool) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}, true
	}
	switch k := r.kind(v.Type()); k {
	case kindString:
		return strNode(v.String()), true
	case kindBool:
		return plain("!!bool", strconv.FormatBool(v.Bool()))
	case kindInt:
		return plain("!!int", strconv.FormatInt(v.Int(), 10))
	case kindUint:
		return plain("!!int", strconv.FormatUint(v.Uint(), 10))
	case kindFloat:
		if math.IsInf(v.Float(), 0) {
			return plain("", strings.Replace(strconv.FormatFloat(v.Float(), 'g', -1, 64), "Inf", ".inf", 1))
		}
		return plain("", strconv.FormatFloat(v.Float(), 'g', -1, 64)) // "!!float 1" if it had that tag
	case kindDuration:
		return strNode(shortDuration(time.Duration(v.Int()))), true
	case kindText:
		m, ok := v.Interface().(encoding.TextMarshaler)
		if !ok && v.CanAddr() {
			m, ok = v.Addr().Interface().(encoding.TextMarshaler)
		}
		if !ok {
			return nil, false
		}
		text, err := m.MarshalText()
		if len(text) == 0 {
			return strNode(""), err == nil
		}
		n := &yaml.Node{Kind: yaml.ScalarNode, Value: string(text)} // "true" needs no quotes here
		return n, err == nil
	case kindAny:
		var n yaml.Node
		return &n, n.Encode(v.Interface()) == nil
	case kindComponent, kindPointer:
		if v.IsNil() {
			return plain("!!null", "null")
		}
		if k == kindPointer {
			return r.node(v.Elem())
		}
		if v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		c := r.byType[v.Type()]
		n, ok := r.changed(v.Elem(), reflect.ValueOf(c.New()).Elem())
		n.Tag = "!" + c.Tag
		return n, ok
	case kindStruct:
		return r.changed(v, r.fresh(v.Type()))
	case kindList:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			inner, ok := r.node(v.Index(i))
			if !ok {
				return nil, false
			}
			n.Content = append(n.Content, inner)
		}
		return n, true
	case kindMap:
		n := &yaml.Node{Kind: yaml.MappingNode}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			inner, ok := r.node(v.MapIndex(k))
			if !ok {
				return nil, false
			}
			n.Content = append(n.Content, strNode(k.String()), inner)
		}
		return n, true
	}
	return nil, false
}

// changed returns the fields of v, a struct, that differ from its defaults.
func (r *Registry) changed(v, defaults reflect.Value) (*yaml.Node, bool) {
	n, all := mapNode(), true
	for _, f := range r.structs[v.Type()].fields {
		inner, ok := r.node(v.FieldByIndex(f.index))
		before, okBefore := r.node(defaults.FieldByIndex(f.index))
		switch {
		case !ok || !okBefore:
			all = false
		case f.limits.secret:
		case flow(inner) != flow(before):
			n.Content = append(n.Content, strNode(f.name), inner)
		}
	}
	return n, all
}

// example returns a component with its required fields and those that have a
// default worth showing. outer are the components it is in.
func (r *Registry) example(c *Component, outer []*Component) *yaml.Node {
	v := reflect.ValueOf(c.New()).Elem()
	n := r.exampleFields(v, outer == nil, append(slices.Clone(outer), c))
	n.Tag = "!" + c.Tag
	return n
}

func (r *Registry) exampleFields(v reflect.Value, optional bool, outer []*Component) *yaml.Node {
	n := mapNode()
	for _, f := range r.structs[v.Type()].fields {
		var inner *yaml.Node
		switch {
		case f.deprecated != "" || !f.required && !optional:
			continue
		case f.example != "":
			var doc yaml.Node
			if err := yaml.Unmarshal([]byte(f.example), &doc); err != nil || len(doc.Content) == 0 {
				f.panicf("the example %q is no YAML: %v", f.example, err)
			}
			inner = doc.Content[0]
		case f.required:
			inner = r.sample(f.typ, f, outer)
		case f.limits.secret:
			continue
		default:
			var ok bool
			inner, ok = r.node(v.FieldByIndex(f.index))
			if !ok || !isLocal(inner.Tag) && (inner.Tag == "!!null" || inner.Value == "" && len(inner.Content) == 0) {
				continue
			}
			if inner.Kind != yaml.ScalarNode && !isLocal(inner.Tag) {
				inner.Style = yaml.FlowStyle
			}
		}
		n.Content = append(n.Content, strNode(f.name), inner)
	}
	return n
}

// sample returns something that decodes to a t for the field f.
func (r *Registry) sample(t reflect.Type, f *field, outer []*Component) *yaml.Node {
	if f.limits.secret {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: envTag, Style: yaml.TaggedStyle, Value: strings.ToUpper(f.name)}
	}
	switch r.kind(t) {
	case kindBool:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: "true"}
	case kindInt, kindUint, kindFloat, kindDuration:
		value := 1.0
		if f.limits.rangeText != "" {
			value = min(max(value, f.limits.min), f.limits.max)
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatFloat(value, 'f', -1, 64)}
	case kindPointer:
		return r.sample(t.Elem(), f, outer)
	case kindList:
		return &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{r.sample(t.Elem(), f, outer)}}
	case kindMap:
		return mapNode(strNode("name"), r.sample(t.Elem(), f, outer))
	case kindStruct:
		return r.exampleFields(r.fresh(t), false, outer)
	case kindComponent:
		for i, c := range r.components {
			if r.goTypes[i].AssignableTo(t) && !slices.Contains(outer, c) {
				return r.example(c, outer)
			}
		}
	}
	if f.limits.enum != nil {
		return strNode(f.limits.enum[0])
	}
	switch f.limits.format {
	case "url":
		return strNode("https://127.0.0.1:443")
	case "path":
		return strNode("/etc/owca/" + f.name)
	case "ipport", "hostport":
		return strNode("127.0.0.1:9092")
	}
	return strNode("example")
}

// fresh returns a new t that can be set: the defaults, if it is the struct of a
// component.
func (r *Registry) fresh(t reflect.Type) reflect.Value {
	if c := r.byType[reflect.PointerTo(t)]; c != nil {
		return reflect.ValueOf(c.New()).Elem()
	}
	return reflect.New(t).Elem()
}

func strNode(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

func mapNode(content ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Content: content}
}

// shortDuration leaves out the zeros of Go's text: "1h" rather than "1h0m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// flow returns n as YAML on one line.
func flow(n *yaml.Node) string {
	c := *n
	c.Style |= yaml.FlowStyle
	return strings.TrimSpace(block(&c))
}

// block returns n as YAML.
func block(n *yaml.Node) string {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		panic(fmt.Sprintf("config: the YAML encoder failed on what is made here: %v", err))
	}
	// The encoder has no way to write a tag with nothing after it.
	return bareTag.ReplaceAllString(b.String(), "$1")
}

var bareTag = regexp.MustCompile(`(?m)(![A-Za-z][A-Za-z0-9_.]*) \{\}$`)

// WriteMarkdown writes a reference page of the components: for each one name,
// description, a table of its fields and an example.
func WriteMarkdown(w io.Writer, docs []ComponentDoc) error {
	var b strings.Builder
	b.WriteString("# Components\n")
	for _, c := range docs {
		fmt.Fprintf(&b, "\n## %s\n\n", c.Tag)
		if len(c.Implements) > 0 {
			fmt.Fprintf(&b, "*%s.* ", strings.Join(c.Implements, ", "))
		}
		b.WriteString(c.Help + "\n\n")
		if len(c.Fields) == 0 {
			b.WriteString("It has no fields.\n")
		} else {
			b.WriteString("| Field | Type | Default | Description |\n|---|---|---|---|\n")
			writeRows(&b, "", c.Fields)
		}
		fmt.Fprintf(&b, "\n```yaml\n%s```\n", c.Example)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeRows(b *strings.Builder, prefix string, fields []FieldDoc) {
	cell := func(s string) string {
		return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s)
	}
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + cell(s) + "`"
	}
	for i := range fields {
		f := &fields[i]
		value := code(f.Default)
		if f.Required {
			value = "required"
		}
		var notes []string
		if f.Deprecated != "" {
			notes = append(notes, "**Deprecated**: "+strings.TrimSuffix(f.Deprecated, ".")+".")
		}
		if f.Help != "" {
			notes = append(notes, strings.ToUpper(f.Help[:1])+strings.TrimSuffix(f.Help[1:], ".")+".")
		}
		if f.Range != "" {
			notes = append(notes, "Range "+code(f.Range)+".")
		}
		if f.Enum != nil {
			all := make([]string, len(f.Enum))
			for i, e := range f.Enum {
				all[i] = code(e)
			}
			notes = append(notes, "One of "+strings.Join(all, ", ")+".")
		}
		if f.Format != "" {
			notes = append(notes, "Format: "+f.Format+".")
		}
		if f.MaxLength != 0 && f.MaxLength != defaultMaxlen {
			notes = append(notes, fmt.Sprintf("At most %d characters.", f.MaxLength))
		}
		if f.Secret {
			notes = append(notes, "Secret: use `!Env`.")
		}
		if f.Aliases != nil {
			notes = append(notes, "Also called "+code(strings.Join(f.Aliases, "`, `"))+".")
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s | %s |\n", prefix, f.Name, f.Type, value, cell(strings.Join(notes, " ")))
		inner := prefix + f.Name + "."
		switch {
		case strings.HasPrefix(f.Type, "list"):
			inner = prefix + f.Name + "[]."
		case strings.HasPrefix(f.Type, "map of"):
			inner = prefix + f.Name + ".*."
		}
		writeRows(b, inner, f.Fields)
	}
}
