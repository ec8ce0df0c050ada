package config

import yaml "go.yaml.in/yaml/v3"

// Shape is what the document of a file is, for files that may be one of several things.
type Shape struct {
	Empty bool     // nothing but comments, or null
	List  bool     // a sequence
	Keys  []string // of a mapping
}

// ShapeOf returns it; that of a file with an error in its syntax, which Decode tells, is none.
func ShapeOf(data []byte) (s Shape) {
	root, problems := parse(data)
	if len(problems) > 0 {
		s.Empty = problems[0].What == emptyFile
		return s
	}
	switch root = target(root); root.Kind {
	case yaml.SequenceNode:
		s.List = true
	case yaml.MappingNode:
		for i := 0; i < len(root.Content); i += 2 {
			s.Keys = append(s.Keys, root.Content[i].Value)
		}
	}
	return s
}
