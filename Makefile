# Targets for people and for CI. `make demo` needs Go alone; `make test` installs
# the peers it tests against (as root) or says what is missing.
GO ?= go

.PHONY: build demo test lint

build:
	$(GO) build -o bin/lunless ./cmd/lunless

lint:
	@test -z "$$(gofmt -l cmd smbstore shares migrate bench)" || { gofmt -l cmd smbstore shares migrate bench; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

test: lint
	$(GO) test -race ./...
