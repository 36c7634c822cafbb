# As root, on a fresh Debian or Fedora machine with Go: `make demo` shows what vifproxy does, `make test` tests it.

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO         ?= go
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
COMMANDS    = vifproxyd vifproxyctl

# How long the chaos run lasts, and what its actions are made of; 0: something else each time.
SECONDS    ?= 60
SEED       ?= 0

.PHONY: build test chaos lint demo deps root clean

build: ## static binaries in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/...

test: root deps build lint ## everything, with real tinyproxy, nftables, iptables and network namespaces
	$(GO) test -race -timeout 30m ./...

chaos: root deps ## all that may happen, in random order, for SECONDS=n; SEED=s repeats a run
	$(GO) test -race -count=1 -timeout 0 -run '^TestChaos$$' -v ./cmd/vifproxyd \
		-args -chaos.time=$(SECONDS)s -chaos.seed=$(SEED)

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

demo: root deps build ## two AppVMs come, browse, are refused; a rule is edited; one leaves
	bin/vifproxylab demo --daemon bin/vifproxyd --ctl bin/vifproxyctl

# The programs that vifproxy drives, those that the lab is made of, and the C compiler that the race detector needs.
deps:
	@packaging/install-deps.sh

root:
	@test "$$(id -u)" = 0 || { echo "make: run as root: network namespaces and firewalls are for root only" >&2; exit 1; }

clean:
	rm -rf bin
