package config

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"

	yaml "go.yaml.in/yaml/v3"
)

type object = map[string]any

// JSONSchema returns a JSON Schema (draft 2020-12) of a file that is decoded
// into root, a pointer to a struct, for completion and checks in an editor. A
// schema does not see tags: what a component can be is any of those that fit,
// and the editor has to be told the tags. For the YAML language server (used by
// VS Code, Neovim, Emacs and others), begin the file with
//
//	# yaml-language-server: $schema=owca.schema.json
//
// and list each tag three times in the editor's settings, as a component may be
// a mapping or nothing at all:
//
//	"yaml.customTags": ["!Env scalar", "!MesosNode mapping", "!MesosNode scalar", …]
//
// [Registry.CustomTags] returns that list.
func (r *Registry) JSONSchema(root any) []byte {
	g := schemas{Registry: r, types: r.forRoot(reflect.TypeOf(root)), defs: object{
		"env": object{
			"type": "string", "pattern": `^[^= \t\r\n]+$`,
			"description": "!Env NAME: the text of an environment variable",
		},
	}}
	s := g.fields(reflect.ValueOf(root).Elem())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "owca configuration"
	s["$defs"] = g.defs
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("config: a schema made here cannot be marshalled: %v", err))
	}
	return append(data, '\n')
}

// CustomTags returns the tags in the form of the YAML language server's setting
// yaml.customTags.
func (r *Registry) CustomTags() []string {
	tags := []string{envTag + " scalar"}
	for _, c := range r.components {
		tags = append(tags, "!"+c.Tag+" mapping", "!"+c.Tag+" scalar")
	}
	return tags
}

// schemas collects the schemas of components, interfaces and structs.
type schemas struct {
	*Registry
	types map[reflect.Type]*structType
	defs  object
}

func ref(name string) object { return object{"$ref": "#/$defs/" + name} }

func (g *schemas) fields(v reflect.Value) object {
	properties := object{}
	var required []object
	for _, f := range g.types[v.Type()].fields {
		value := v.FieldByIndex(f.index)
		s := object{"anyOf": []object{g.schema(f.typ, &f.limits), {"type": "null"}}}
		if f.help != "" {
			s["description"] = f.help
		}
		if f.deprecated != "" {
			s["deprecated"] = true
			s["description"] = f.deprecated
		}
		if def, ok := g.jsonDefault(value); ok && !f.required && !f.limits.secret {
			s["default"] = def
		}
		present := []object{{"required": []string{f.name}}}
		properties[f.name] = s
		for _, alias := range f.aliases {
			properties[alias] = s
			present = append(present, object{"required": []string{alias}})
		}
		if f.required {
			required = append(required, object{"anyOf": present})
		}
	}
	s := object{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		s["allOf"] = required
	}
	return s
}

// jsonDefault returns a scalar default, or a list or map of them, for JSON.
func (g *schemas) jsonDefault(v reflect.Value) (any, bool) {
	if k := g.kind(g.leaf(v.Type())); !k.scalar() {
		return nil, false
	}
	n, ok := g.node(v)
	if !ok || n.Tag == "!!null" {
		return nil, false
	}
	var doc yaml.Node
	var def any
	if yaml.Unmarshal([]byte(flow(n)), &doc) != nil || doc.Decode(&def) != nil {
		return nil, false
	}
	_, err := json.Marshal(def)
	return def, err == nil // infinities have no JSON
}

func (g *schemas) schema(t reflect.Type, l *limits) object {
	k := g.kind(t)
	switch k {
	case kindString:
		if l.enum != nil {
			return object{"anyOf": []object{{"enum": l.enum}, ref("env")}}
		}
		return object{"type": "string", "maxLength": l.maxlen}
	case kindText:
		return object{"type": []string{"string", "number", "boolean"}}
	case kindBool:
		return object{"anyOf": []object{{"type": "boolean"}, ref("env")}}
	case kindInt, kindUint, kindFloat, kindDuration:
		number := object{"type": "number"}
		if k == kindInt || k == kindUint {
			number["type"] = "integer"
		}
		if l.rangeText != "" {
			if !math.IsInf(l.min, 0) {
				number["minimum"] = l.min
			}
			if !math.IsInf(l.max, 0) {
				number["maximum"] = l.max
			}
		}
		if k == kindDuration {
			return object{"anyOf": []object{number, {"type": "string"}}} // "500ms", or a variable
		}
		return object{"anyOf": []object{number, ref("env")}}
	case kindPointer:
		return object{"anyOf": []object{g.schema(t.Elem(), l), {"type": "null"}}}
	case kindList:
		elem := g.schema(t.Elem(), l)
		list := object{"type": "array", "items": elem}
		if g.kind(t.Elem()) == kindComponent {
			return object{"anyOf": []object{list, elem}}
		}
		return list
	case kindMap:
		return object{"type": "object", "additionalProperties": g.schema(t.Elem(), l)}
	case kindStruct:
		return g.define("struct."+t.String(), func() object { return g.fields(g.fresh(t)) })
	case kindComponent:
		return g.define("slot."+t.String(), func() object {
			fitting := []object{}
			for i, c := range g.components {
				if g.goTypes[i].AssignableTo(t) {
					fitting = append(fitting, g.componentSchema(c))
				}
			}
			if len(fitting) == 0 {
				return object{"not": object{}}
			}
			return object{"anyOf": fitting}
		})
	}
	return object{}
}

func (g *schemas) componentSchema(c *Component) object {
	return g.define("component."+c.Tag, func() object {
		s := g.fields(reflect.ValueOf(c.New()).Elem())
		s["title"] = "!" + c.Tag
		s["description"] = c.Help
		// A tag with nothing after it is null or the empty string.
		s["type"] = []string{"object", "null", "string"}
		s["maxLength"] = 0
		return s
	})
}

// define defines a schema once, even if it contains itself.
func (g *schemas) define(name string, of func() object) object {
	if _, ok := g.defs[name]; !ok {
		g.defs[name] = nil
		g.defs[name] = of()
	}
	return ref(name)
}
