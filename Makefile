# make lists the targets. Go and git are enough for build and test.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Static, the same bytes wherever it is built. The version is the one that Go
# takes from git; a tree without history (a tarball) builds too, without one.
OUT        ?= bin/owca
BUILDVCS   := $(if $(shell git rev-parse -q --verify HEAD 2>/dev/null),true,false)
BUILDFLAGS := -trimpath -buildvcs=$(BUILDVCS)

# The race detector needs cgo; RACE=-race insists on it, RACE= does without.
CC   := $(shell go env CC)
RACE ?= $(if $(shell command -v $(firstword $(CC))),-race)

ARGS      ?=
TESTFLAGS ?=
PKG       ?= ./...
FUZZTIME  ?= 20s

# Tools are for this machine, whatever GOARCH the caller asks for.
host := GOOS= GOARCH=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## static binary OUT (bin/owca) for GOARCH
	CGO_ENABLED=0 go build $(BUILDFLAGS) -o $(OUT) ./cmd/owca

.PHONY: run
run: build ## build and start the agent on this host, as root if possible; ARGS are passed on
	@if [ "$$(id -u)" = 0 ]; then set -x; exec $(abspath $(OUT)) run --root $(ARGS); \
	elif command -v sudo >/dev/null; then set -x; exec sudo $(abspath $(OUT)) run --root $(ARGS); \
	else set -x; exec $(abspath $(OUT)) run $(ARGS); fi

# One package at a time, because they share a host: one's thousands of cgroups are
# tasks in the other's. What can be built at once is built before.
.PHONY: test
test: bin/testreport ## tests of PKG; with the race detector if there is a C compiler
	@$(if $(RACE),,echo "without the race detector: no C compiler ($(CC)), or RACE= given")
	CGO_ENABLED=$(if $(RACE),1,0) go build -o /dev/null $(RACE) $(PKG)
	CGO_ENABLED=$(if $(RACE),1,0) go test $(RACE) -p 1 -json $(TESTFLAGS) $(PKG) | bin/testreport

.PHONY: vm-test vm-test-x86 vm-test-arm64 vm-test-resctrl
vm-test: vm-test-x86 vm-test-arm64 vm-test-resctrl ## the host packages' tests in VMs: all of the following
vm-test-x86: ## on pure cgroup v1 and v2 kernels; ARGS for test/vm/run
	test/vm/run $(ARGS)
vm-test-arm64: ## with a PMU that counts exactly, and others; ARGS for test/vm/run-arm64
	test/vm/run-arm64 $(ARGS)
vm-test-resctrl: ## with resctrl in all its shapes, and the program there; ARGS for test/vm/run-resctrl
	test/vm/run-resctrl $(ARGS)

.PHONY: e2e
e2e: build ## test/e2e/*.sh, on real parts
	@for script in test/e2e/*.sh; do \
		[ -e "$$script" ] || continue; echo "== $$script"; "$$script"; done

.PHONY: fuzz
fuzz: ## every fuzz test of PKG for FUZZTIME (20s), one a CPU at a time
	tools/fuzz $(FUZZTIME) $(PKG)

.PHONY: bench
bench: ## cost of a tick and of counting on this host: prints and writes "bench NAME VALUE UNIT"; ARGS=-perf is the latter
	go run ./test/bench $(ARGS)

.PHONY: bench-resctrl
bench-resctrl: ## cost of monitoring 1000 tasks by resctrl, as ratios, in a VM: prints "bench NAME VALUE UNIT"
	test/vm/run-resctrl -b $(ARGS)

.PHONY: lint
lint: bin/golangci-lint ## golangci-lint, formatting, import table, vet for arm64, go.mod
	$(host) bin/golangci-lint run ./...
	cd tools && $(host) ../bin/golangci-lint run ./...
	$(host) go test -C tools ./testreport
	$(host) go test -C tools ./importtable -args -golangci-lint="$(CURDIR)/bin/golangci-lint"
	GOARCH=arm64 CGO_ENABLED=0 go vet ./...
	go mod tidy -diff

.PHONY: generate
generate: bpf ## the pages of docs/ that the program itself writes, and the BPF object
	$(host) go test ./cmd/owca -run '^TestDocs$$' -count=1 -args -update

# In its directory, so that no path gets into it; without debug information but
# the BTF.
.PHONY: bpf
bpf: ## internal/perf/bpf/count.o, with clang, llvm-strip and libbpf's headers
	cd internal/perf/bpf && \
	clang -O2 -g -mcpu=v3 -target bpf -fdebug-compilation-dir=. -Wall -Wextra -Wno-unused-parameter -Werror \
		-I/usr/include/$$(uname -m)-linux-gnu -c count.c -o count.o && \
	llvm-strip -g count.o

.PHONY: reproducible
reproducible: build ## build again, all of it, in another directory: the same bytes?
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	tar -cf - --exclude=./bin . | tar -xf - -C "$$dir"; \
	(cd "$$dir" && CGO_ENABLED=0 go build -a $(BUILDFLAGS) -o owca.again ./cmd/owca); \
	sha256sum $(OUT) "$$dir/owca.again"; \
	cmp $(OUT) "$$dir/owca.again"

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

# go build knows better than make whether they are up to date.
.PHONY: bin/golangci-lint bin/testreport
bin/golangci-lint:
	@$(host) go build -C tools -buildvcs=false -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/testreport:
	@$(host) go build -C tools -buildvcs=false -o ../$@ ./testreport
