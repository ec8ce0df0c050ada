package cgroup

import (
	"bytes"
	"slices"
	"testing"

	"github.com/owca-project/owca/internal/hosttest"
)

func TestHostThreadsBelow(t *testing.T) {
	tree := hostTree(t)
	top := hosttest.NewCgroup(t, nil, "below")
	leaf := hosttest.NewCgroup(t, hosttest.NewCgroup(t, top, "middle"), "leaf")
	empty := hosttest.NewCgroup(t, top, "empty")
	deep := leaf.Start("threads 20")
	deep.Done()
	g := open(t, tree, top.Path)
	if ids, err := g.Threads(nil); err != nil || len(ids) != 0 {
		t.Errorf("Threads are %v, %v, want none: all are below", ids, err)
	}
	ids, err := g.ThreadsBelow(nil)
	if err != nil || len(ids) < 20 || !slices.Contains(ids, deep.Pid) {
		t.Errorf("%d threads below, %v, want those of process %d", len(ids), err, deep.Pid)
	}
	if ids, err := open(t, tree, leaf.Path).ThreadsBelow(nil); err != nil || len(ids) < 20 {
		t.Errorf("%d threads of a leaf, %v", len(ids), err)
	}
	if ids, err := open(t, tree, empty.Path).ThreadsBelow(nil); err != nil || len(ids) != 0 {
		t.Errorf("threads of an empty cgroup: %v, %v", ids, err)
	}
	leaf.Remove()
	if ids, err := g.ThreadsBelow(nil); err != nil || len(ids) != 0 {
		t.Errorf("threads once they are gone: %v, %v", ids, err)
	}
}

func FuzzSubdirs(f *testing.F) {
	entry := func(kind byte, name string) []byte {
		b := make([]byte, 18, 24+len(name))
		b = append(b, kind)
		b = append(b, name...)
		for b = append(b, 0); len(b)%8 != 0; {
			b = append(b, 0)
		}
		b[16] = byte(len(b))
		return b
	}
	const directory, regular = 4, 8
	good := slices.Concat(entry(directory, "."), entry(directory, ".."), entry(directory, "a b"), entry(regular, "tasks"), entry(directory, "c"))
	if got := appendSubdirs(nil, good); len(got) != 2 || string(got[0]) != "a b\x00" || string(got[1]) != "c\x00" {
		f.Fatalf("%q", got)
	}
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range appendSubdirs(nil, b) {
			if i := bytes.IndexByte(name, 0); i != len(name)-1 || !bytes.Contains(b, name) {
				t.Errorf("the name %q", name)
			}
		}
	})
}
