package owca_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
)

var metricName = regexp.MustCompile(`^owca_[a-z0-9]+(_[a-z0-9]+)*$`)

// TestCatalogue holds the conventions of
// https://prometheus.io/docs/practices/naming/ and what promlint checks.
func TestCatalogue(t *testing.T) {
	names := make(map[string]string) // as any storage writes them
	for _, d := range owca.Catalogue() {
		if !metricName.MatchString(d.Name) {
			t.Errorf("%s: not a name", d.Name)
		}
		if names[d.Name] != "" {
			t.Errorf("%s: twice", d.Name)
		}
		names[d.Name] = d.Name

		base, total := strings.CutSuffix(d.Name, "_total")
		if total != (d.Kind == owca.Counter) {
			t.Errorf("%s: ends in _total, but is a %s, or the other way round", d.Name, d.Kind)
		}
		switch d.Unit {
		case "":
			for unit := range strings.SplitSeq("seconds bytes ratio hertz", " ") {
				if strings.HasSuffix(base, "_"+unit) {
					t.Errorf("%s: has no Unit", d.Name)
				}
			}
			if d.Scale > owca.One || d.Scale < owca.One {
				t.Errorf("%s: a scale without a unit", d.Name)
			}
		case "seconds", "bytes", "ratio", "hertz":
			if !strings.HasSuffix(base, "_"+d.Unit) && !strings.HasSuffix(base, "_"+d.Unit+"_per_second") {
				t.Errorf("%s: does not end in its unit %s", d.Name, d.Unit)
			}
		case "cores":
			if !strings.HasSuffix(base, "_cores") && !strings.HasSuffix(base, "_cpus") {
				t.Errorf("%s: does not end in its unit %s", d.Name, d.Unit)
			}
		default:
			t.Errorf("%s: %s is not a base unit", d.Name, d.Unit)
		}
		for _, part := range strings.Split(d.Name, "_") {
			if slices.Contains([]string{"ms", "us", "ns", "sec", "secs", "milliseconds", "microseconds", "nanoseconds", "mb", "kb", "kib", "mib", "percent", "gauge", "counter"}, part) {
				t.Errorf("%s: %s is no base unit, or says the type", d.Name, part)
			}
		}
		if d.Help == "" || !strings.HasSuffix(d.Help, ".") || strings.ContainsAny(d.Help, "\n\\") {
			t.Errorf("%s: help is not one or more sentences: %q", d.Name, d.Help)
		}
		if d.Source == "" || strings.Contains(d.Source, "\n") {
			t.Errorf("%s: source: %q", d.Name, d.Source)
		}
		if d.Label != "" && (owca.SanitizeLabelName(d.Label) != d.Label || strings.ToLower(d.Label) != d.Label) {
			t.Errorf("%s: label: %q", d.Name, d.Label)
		}
		if d.Original == "" && d.OriginalPerUnit != 0 {
			t.Errorf("%s: unit of an original that it does not have", d.Name)
		}
		if d.OriginalPerUnit < 0 {
			t.Errorf("%s: OriginalPerUnit %v", d.Name, d.OriginalPerUnit)
		}
		if d.Derived && d.Kind == owca.Counter {
			t.Errorf("%s: a derived counter", d.Name)
		}
	}
	// With the original's names nothing may get the name of something else.
	for _, d := range owca.Catalogue() {
		if d.Original == "" {
			continue
		}
		if other := names[d.Original]; other != "" && other != d.Name {
			t.Errorf("%s: %s has the original's name %s, too", d.Name, other, d.Original)
		}
		names[d.Original] = d.Name
	}
}

// TestCatalogueIsComplete: every Desc that is declared is listed, in that order.
func TestCatalogueIsComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "catalogue.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var declared, listed []string
	for _, decl := range file.Decls {
		vars, ok := decl.(*ast.GenDecl)
		if !ok || vars.Tok != token.VAR {
			continue
		}
		for _, spec := range vars.Specs {
			v := spec.(*ast.ValueSpec)
			for i, name := range v.Names {
				if len(v.Values) <= i {
					continue
				}
				switch value := v.Values[i].(type) {
				case *ast.UnaryExpr: // &Desc{…}
					declared = append(declared, name.Name)
				case *ast.CompositeLit:
					if name.Name != "catalogue" {
						continue
					}
					for _, element := range value.Elts {
						listed = append(listed, element.(*ast.Ident).Name)
					}
				}
			}
		}
	}
	if len(declared) < 50 {
		t.Fatalf("only %d Descs found in catalogue.go: %v", len(declared), declared)
	}
	if diff := cmp.Diff(declared, listed); diff != "" {
		t.Errorf("declared (-) and listed (+) differ:\n%s", diff)
	}
	if n := len(owca.Catalogue()); n != len(declared) {
		t.Errorf("Catalogue has %d metrics, %d are declared", n, len(declared))
	}
}

func TestCatalogueIsACopy(t *testing.T) {
	owca.Catalogue()[0] = nil
	if owca.Catalogue()[0] == nil {
		t.Error("a caller changed it")
	}
}
