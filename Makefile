# As root, on a fresh Debian or Fedora machine with Go: `make demo` shows what vifproxy does, `make test` tests it, `make
# bench` measures it. `make package` makes packages of it, and `make e2e`, on Debian, installs them into a machine of
# their own.

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO         ?= go
STATICCHECK = $(AS_BUILT) $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOTESTSUM   = $(AS_BUILT) $(GO) run gotest.tools/gotestsum@v1.13.0
NFPM        = $(AS_BUILT) $(GO) run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
BIN        ?= bin
DIST       ?= dist

# The version as dpkg and rpm order them: v1.2-3-gabc is 1.2+3.gabc; without a tag it comes before all releases. Git knows
# nothing of a tree that came as a tarball, and tells root nothing of another user's.
PACKAGE_VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null | \
	sed 's/^v//; s/-/+/; s/-/./g' | grep . || { count=$$(git rev-list --count HEAD 2>/dev/null) && \
	echo 0~git$$count.$$(git describe --always --dirty=.dirty); } || echo 0~unknown)

# How many packages are tested at once: their tests wait more than they compute.
PACKAGES   ?= 4

# These packages compute, in one goroutine each (internal/architecture sees to that). So they are tested without the race detector, with
# which they take four times as long, and their linker half as long again.
SEQUENTIAL  = internal/agenda internal/architecture internal/backoff internal/beat internal/bounds internal/browsers internal/defaults \
	internal/manpage internal/plan internal/secret internal/stops internal/terminal internal/usage \
	rules/expression rules/hostname rules/lint rules/match tinyproxy/confine/handover tinyproxy/kernel tinyproxy/limits

# These packages test programs from outside. They build the daemon with the race detector (cmd/vifproxyd/programs_test.go). The test itself is
# AppVMs and the internet for it, and would take twice as much of the CPUs with the detector.
OUTSIDE     = cmd/vifproxyd

# What takes longest begins first, or the rest of the machine waits for it at the end: packages, and of cmd/vifproxyd the tests that take
# a minute by themselves. These run beside its others, which begin in no certain order.
LONGEST     = firewall/backend firewall/nft internal/simulate internal/nameserver cmd/vifproxy-client supervisor tinyproxy/process
MINUTES     = ^Test(AddressesThatChange|AProxyThatStandsStillIsReplaced|Chaos|ClientsThatHoldAllConnections|HundredAppVMsAtOnce|OwnedProxy)$$

# A line every few seconds: of what passes, packages and the tests that took two seconds.
PROGRESS    = grep --line-buffered -vE '^(EMPTY |PASS [^ ]+\.((Test|Fuzz)[^ /]*/.*|[^ ]* \([01]\.[0-9]+s\)))'

# A program with the race detector waits at its end for reports of other threads, a second if nothing is said.
export GORACE := atexit_sleep_ms=10 $(GORACE)

# As `build` compiles. What needs no race detector does the same, so that nothing is compiled for it alone.
AS_BUILT    = CGO_ENABLED=0 GOFLAGS='$(GOFLAGS) -trimpath'

# How long the chaos run lasts, and what its actions are made of; 0: something else each time.
SECONDS    ?= 60
SEED       ?= 0

# The release of Debian that the machines of `make e2e` and `make browsers` run: bookworm is Debian 12, trixie Debian 13.
SUITE      ?= bookworm

# `lint` has done what vet would do. With -trimpath, a clone in another folder compiles nothing again. Nobody debugs these
# programs, so they are linked without symbols and DWARF, which takes a third of the linker's time. Each test runs, whether the sources have
# changed or not: Go does not know the kernel and the programs that the tests are about.
TEST        = $(GO) test -json -count=1 -vet=off -trimpath -ldflags=-s -p $(PACKAGES) -timeout 30m

# How many steps all runs of `make simulate` have together. The first run has the seed SEED, the next one the next.
STEPS      ?= 1000000

# Which faults `make mutants` tries, as a pattern of the names in internal/simulate/mutants.
MUTANTS    ?= *

# Which kernels `make matrix` tries, by the releases of Debian that have them; none means all of them.
KERNELS    ?=

.PHONY: build package test bench chaos simulate mutants e2e browsers website matrix lint demo man deps-demo deps-bench deps-test deps-e2e deps-website deps-matrix root clean help

build: ## static binaries in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X vifproxy/internal/defaults.version=$(VERSION)' -o $(BIN)/ ./cmd/...

# Files in the packages bear the time of the commit, so that the same sources give the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat --format=%Y go.mod)

package: export BIN := $(BIN)
package: export ARCH := $(shell $(GO) env GOARCH)
package: export PACKAGE_VERSION := $(PACKAGE_VERSION)
package: export SOURCE_DATE_EPOCH := $(SOURCE_DATE_EPOCH)
package: build ## .deb and .rpm in dist/, for the firewall VM and for AppVMs
	mkdir -p $(BIN)/doc $(DIST)
	gzip -9nc packaging/man/vifproxyd.8 > $(BIN)/doc/vifproxyd.8.gz
	gzip -9nc packaging/man/vifproxyctl.1 > $(BIN)/doc/vifproxyctl.1.gz
	gzip -9nc packaging/man/vifproxy-client.1 > $(BIN)/doc/vifproxy-client.1.gz
	gzip -9nc packaging/man/vifproxy-rules.5 > $(BIN)/doc/vifproxy-rules.5.gz
	gzip -9nc CHANGELOG.md > $(BIN)/doc/changelog.gz
	for config in packaging/nfpm.yaml packaging/client/nfpm.yaml; do for packager in deb rpm; do \
		GOARCH= $(NFPM) package --config $$config --packager $$packager --target $(DIST)/ || exit 1; done; done

test: SHELL := bash
test: root deps-test build lint ## everything, with real tinyproxy, nftables, iptables and network namespaces
	@# What all of the following need is compiled first, or they would compile it at the same time.
	@CGO_ENABLED=1 $(GO) list -race -trimpath -export -deps ./cmd/vifproxyd >/dev/null
	@# Three runs write into one pipe. Two lines that are longer than what it takes at once may be mixed up: that is told, and no failure.
	@set -o pipefail; $(GOTESTSUM) --format=testname --ignore-non-json-output-lines --raw-command -- sh -c ' \
		CGO_ENABLED=0 $(TEST) -run "$(MINUTES)" $(OUTSIDE:%=./%) & minutes=$$!; \
		CGO_ENABLED=0 $(TEST) -skip "$(MINUTES)" $(OUTSIDE:%=./%) $(SEQUENTIAL:%=./%) & others=$$!; \
		CGO_ENABLED=1 $(TEST) -race $(LONGEST:%=./%) \
			$$($(GO) list ./... | grep -vxF $(patsubst %,-e vifproxy/%,$(OUTSIDE) $(SEQUENTIAL))); status=$$?; \
		for job in $$minutes $$others; do wait $$job || status=1; done; exit $$status' | $(PROGRESS)

bench: root deps-bench build ## speed and size, each figure beside its floor; BENCH="--only=attach --runs=50 --json=FILE"
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -tags profile -ldflags '-X vifproxy/internal/defaults.version=$(VERSION)' \
		-o $(BIN)/bench/ ./cmd/vifproxyd ./cmd/vifproxy-confine ./cmd/vifproxy-names ./cmd/vifproxy-switchboard \
		./internal/bench/empty
	$(BIN)/vifproxylab bench --daemon=$(if $(findstring --profile,$(BENCH)),$(BIN)/bench,$(BIN))/vifproxyd \
		--empty=$(BIN)/bench/empty $(BENCH)

chaos: root deps-test ## all that may happen, in random order, for SECONDS=n; SEED=s repeats a run
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 0 -run '^TestChaos$$' -v ./cmd/vifproxyd \
		-args -chaos.time=$(SECONDS)s -chaos.seed=$(SEED)

simulate: ## the whole supervisor against a simulated machine, for STEPS=n; SEED=s repeats the run of that seed
	$(GO) test -count=1 -timeout 0 -run '^TestSimulate$$' -v ./internal/simulate -args -seed=$(SEED) -steps=$(STEPS)

mutants: ## which faults the simulation finds if they are put into the code; MUTANTS=d1bfc29 tries one
	GO='$(GO)' STEPS=$(STEPS) internal/simulate/mutants/run.sh '$(MUTANTS)'

e2e: root deps-e2e ## the packages, on a Debian with a real systemd; SUITE=trixie takes Debian 13
	$(GO) test -tags e2e -count 1 -timeout 40m ./packaging/... -args -suite=$(SUITE)

browsers: root deps-e2e ## Debian's Firefox and Chromium behind the package, for two minutes each
	$(GO) test -tags e2e,browsers -count 1 -timeout 40m -run Browsers -v ./packaging/... -args -suite=$(SUITE)

website: root deps-website ## a browser loads a site of 40 hosts while its AppVM learns, and again by the list that comes of it
	$(GO) test -tags browsers -count 1 -timeout 15m -run '^TestBrowserLearnsAWebsite$$' -v ./cmd/vifproxyd

matrix: root deps-matrix ## what asks the kernel for something, on Debian's kernels in QEMU, and the table of docs/platforms.md; by hand
	GO='$(GO)' packaging/matrix/run.sh $(KERNELS)

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }
	$(AS_BUILT) $(GO) vet ./...
	$(AS_BUILT) $(GO) vet -tags e2e,browsers,profile ./packaging/... ./cmd/vifproxyd
	$(STATICCHECK) ./...
	$(STATICCHECK) -tags e2e,browsers,profile ./packaging/... ./cmd/vifproxyd

demo: root deps-demo build ## two AppVMs come, browse, are refused; a rule is edited; one leaves
	bin/vifproxylab demo --daemon bin/vifproxyd --ctl bin/vifproxyctl

man: ## write the manual pages anew, from the help texts
	$(GO) test ./cmd/vifproxyctl ./cmd/vifproxyd ./cmd/vifproxy-client -run TestManPage -update

# The programs that vifproxy drives, those that the lab is made of, and what only tests, or only the bench, need.
deps-demo deps-bench deps-test deps-e2e deps-website deps-matrix: deps-%:
	@packaging/install-deps.sh $*

root:
	@test "$$(id -u)" = 0 || { echo "make: run as root: network namespaces and firewalls are for root only" >&2; exit 1; }

clean: ## remove bin/ and dist/
	rm -rf bin dist

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z0-9-]+:.*## / { printf "%-9s %s\n", $$1, $$2 }' Makefile
