package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShapeOf(t *testing.T) {
	for text, want := range map[string]Shape{
		"":                       {Empty: true},
		"# nothing\n---\n":       {Empty: true},
		"~\n":                    {Empty: true},
		"- a\n":                  {List: true},
		"\ufeff- a\n":            {List: true},
		"--- # comment\n[\na]":   {List: true},
		"a: 1\n'b': 2\n":         {Keys: []string{"a", "b"}},
		"{a: [], \"b\": {c: 1}}": {Keys: []string{"a", "b"}},
		"text\n":                 {},
		"- [\n":                  {},
		"a: 1\n---\nb: 1\n":      {},
	} {
		if diff := cmp.Diff(want, ShapeOf([]byte(text))); diff != "" {
			t.Errorf("%q:\n%s", text, diff)
		}
	}
}

// TestDecodeList: the document may be a list.
func TestDecodeList(t *testing.T) {
	type element struct {
		Name string `yaml:"name" required:"true" help:"A name."`
	}
	var list []element
	if _, err := NewRegistry().Decode([]byte("- name: a\n- {name: b}\n"), Options{}, &list); err != nil || len(list) != 2 || list[1].Name != "b" {
		t.Errorf("%v, %v", list, err)
	}
	_, err := NewRegistry().Decode([]byte("- name: c\n- {}\n"), Options{File: "f"}, &list)
	if err == nil || err.Error() != `f:2:3: $[1].name: missing field "name": expected a string` || list[0].Name != "a" {
		t.Errorf("%v, %v", list, err)
	}
	if _, err = NewRegistry().Decode([]byte("a: 1\n"), Options{}, &list); err == nil {
		t.Error("a mapping was taken for a list")
	}
}
