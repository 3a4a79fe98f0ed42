# Targets for people and for CI. `make demo` needs Go alone; `make test` installs
# the peers it tests against (as root) or says what is missing.
GO ?= go
CODE := cmd smbstore shares migrate bench testdata

.PHONY: build demo test lint bench torture tools fuzz soak-disks soak-cuts soak-handles soak-links soak-storage soak-kills soak-restarts soak-moves soak-pdus soak-load soak-state soak-guest soak-vm soak-fight

build:
	$(GO) build -o bin/lunless ./cmd/lunless

demo: build
	bin/lunless demo

# Debian's packages and the test guest's kernel.
tools:
	testdata/peers.sh

lint:
	@test -z "$$(gofmt -l $(CODE))" || { gofmt -l $(CODE); exit 1; }
	$(GO) vet ./... ./testdata/guest/... ./testdata/torture/...
	$(GO) tool staticcheck ./... ./testdata/guest/... ./testdata/torture/...

# The race detector makes suites over whole images, of one goroutine each, five times
# as slow and more: its build leaves them out, and norace.sh runs them.
test: tools lint
	$(GO) test -race -timeout 40m ./... ./testdata/guest/...
	GO='$(GO)' testdata/norace.sh

# Go benchmarks, with allocations; `lunless bench` measures the whole path.
bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# make torture SERVER=host:port SHARE=name USER=user%password [MATCH=regexp] [LOGS=folder]
torture: tools
	$(GO) run ./testdata/torture/run -server '$(SERVER)' -share '$(SHARE)' -user '$(USER)' -match '$(or $(MATCH),.)' -logs '$(LOGS)'

# Every fuzz target of FUZZPKGS for FUZZTIME, or all of them for TOTAL (1h).
FUZZTIME ?= 30s
FUZZPKGS ?= ./...
fuzz:
	TOTAL=$(TOTAL) testdata/fuzz.sh $(FUZZTIME) $(FUZZPKGS)

# The long runs. SABOTAGE=name in the environment (or after make) switches on a
# fault that the run must notice.
CUTS ?= 20000
RUNS ?= 30
LINKS ?= 500
PDUS ?= 1000000
STEPS ?= 1000000
CONNS ?= 1500
OPENS ?= 10000
BUSY ?= 200
LOAD_SECONDS ?= 20
soak-disks:
	CUTS=$(CUTS) testdata/soak.sh TestPowerCuts ./smbstore/vhdx ./smbstore/vhd ./smbstore
soak-cuts:
	CUTS=$(CUTS) testdata/soak.sh TestPowerCuts ./shares
soak-handles: KILLS ?= 200
soak-handles:
	KILLS=$(KILLS) testdata/soak.sh TestSoakHandles ./shares
soak-links:
	LINKS=$(LINKS) testdata/soak.sh TestSoakLinks ./shares
# Live, under a guest that verifies what it wrote; soak-moves has no guest, moves
# VMs that are off as well, and kills whoever does it.
soak-storage: tools
	RUNS=$(RUNS) testdata/soak.sh TestSoakStorage ./migrate/host
# Kills agent, servers, QEMU and the program that asks, in all phases of a VM's life.
soak-kills: KILLS ?= 50
soak-kills: tools
	KILLS=$(KILLS) testdata/soak.sh TestSoakKills ./migrate/host
# Restarts the server under a guest, on a plain and a continuously available share.
RESTARTS ?= 20
soak-restarts: tools
	RESTARTS=$(RESTARTS) testdata/soak.sh TestSoakRestarts ./migrate/host
soak-moves:
	RUNS=$(RUNS) testdata/soak.sh TestSoakStorage ./migrate
soak-pdus:
	PDUS=$(PDUS) testdata/soak.sh TestMutatedPDUs ./shares
soak-load:
	CONNS=$(CONNS) OPENS=$(OPENS) BUSY=$(BUSY) LOAD_SECONDS=$(LOAD_SECONDS) testdata/soak.sh TestLoad ./shares
soak-state:
	STEPS=$(STEPS) testdata/soak.sh TestModel ./shares/state ./shares

# Two hosts that fight for one VM, on our server and on Samba.
ROUNDS ?= 20
soak-fight: tools
	ROUNDS=$(ROUNDS) testdata/soak.sh 'TestFight(Samba)?' ./migrate/host

# The test guest on disks on shares, ours and Samba's, by itself and through the host agent.
VM_SECONDS ?= 300
soak-vm: tools
	VM_SECONDS=$(VM_SECONDS) $(GO) test -count 1 -timeout 0 -v -run TestGuestBootsFromShare ./testdata/guest/vm ./migrate/host

# Linux's own SMB client, in a guest: random operations, and a server that is killed.
GUEST_SECONDS ?= 600
GUEST_KILLS ?= 20
soak-guest: tools
	GUEST_SECONDS=$(GUEST_SECONDS) $(GO) test -count 1 -timeout 0 -v -run TestKernelClientChurn ./cmd/lunless
	KILLS=$(GUEST_KILLS) testdata/soak.sh TestKernelClientRidesOverKills ./cmd/lunless
