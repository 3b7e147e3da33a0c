# qwire: every command that a developer or CI runs. Bare `make` lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check
# Options of one run: `make serve ARGS="--port 50052"`, `make test ARGS="tests/unit -k sampler"`.
ARGS   ?=
IMAGE  ?= qwire:0.1.0
# A Kustomize folder, and what applies it.
OVERLAY ?= infra/kubernetes/overlays/gpu
KUBECTL ?= kubectl

SOURCES  := clients services deployments tests
PROTOS   := $(sort $(wildcard protos/qwire/v1/*.proto))
SERVICES := $(shell grep -l '^service ' $(PROTOS))
GOLDEN   := tests/golden/qwire.v1.binpb

SERVER := $(VENV)/.stamp
DEV    := $(VENV)/.stamp-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv dev model serve test check fmt lint types imports stubs stubs-check proto-check proto-accept \
        infra-check bench bench-engine chaos soak eval constraints hooks image deploy clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- run

venv: $(SERVER) ## Create .venv with the server, every version pinned

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(SERVER): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[server]'
	@touch $@

model: $(SERVER) ## Fetch, verify and convert the default model into the cache, once
	$(BIN)/python -m qwire.models.fetch --cache "$${QWIRE_CACHE:-$$HOME/.cache/qwire}" $(ARGS)

serve: $(SERVER) ## Serve the default model over gRPC on 127.0.0.1:50051 (ARGS="--help" lists the options)
	$(BIN)/qwire-serve $(ARGS)

# --- develop

dev: $(DEV) ## Add the development tools to .venv

$(DEV): $(SERVER)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

test: $(DEV) ## Run every test that needs no GPU, the default model end to end included
	$(BIN)/python -m pytest -m "not gpu" $(ARGS)

check: lint types imports stubs-check proto-check infra-check test ## Everything that CI runs, in CI's order

fmt: $(DEV) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lint: $(DEV) ## Style and mistakes (ruff)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(DEV) ## Types (pyright, strict)
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(DEV) ## Who may import whom (import-linter)
	$(BIN)/lint-imports

# --- the contract

# The paths of the protos and of the Python modules are the same, so that the generated imports need no rewriting.
define generate
	cd protos && PATH="$(CURDIR)/$(BIN):$$PATH" $(CURDIR)/$(BIN)/python -m grpc_tools.protoc -I . \
	  --python_out=$(1) --mypy_out=quiet:$(1) $(PROTOS:protos/%=%)
	cd protos && PATH="$(CURDIR)/$(BIN):$$PATH" $(CURDIR)/$(BIN)/python -m grpc_tools.protoc -I . \
	  --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(SERVICES:protos/%=%)
endef

stubs: $(DEV) ## Generate clients/qwire/v1 from the protos
	$(call generate,$(CURDIR)/clients)

stubs-check: $(DEV) ## Generate the stubs aside and compare them with those checked in
	@rm -rf build/stubs && mkdir -p build/stubs
	@$(call generate,$(CURDIR)/build/stubs)
	@diff -r --exclude=__pycache__ --exclude=__init__.py --exclude=py.typed build/stubs/qwire/v1 clients/qwire/v1 \
	  || { echo "The checked-in stubs are not those of the protos: run 'make stubs'." >&2; exit 1; }

proto-check: $(DEV) ## Lint the protos and compare them with the accepted contract
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(GOLDEN)
	@mkdir -p build && $(BIN)/buf build --exclude-source-info -o build/qwire.v1.binpb
	@cmp -s build/qwire.v1.binpb $(GOLDEN) \
	  || { echo "The protos grew: record it with 'make proto-accept'." >&2; exit 1; }

proto-accept: $(DEV) ## Record the protos as the accepted contract; refuses a breaking change
	@if [ -e $(GOLDEN) ]; then $(BIN)/buf breaking --against $(GOLDEN); fi
	$(BIN)/buf build --exclude-source-info -o $(GOLDEN)
	$(BIN)/python -m tests.golden.contract

# --- operate

infra-check: $(DEV) ## Validate the Serve configs, the Dockerfile and the Kubernetes manifests, offline
	$(BIN)/hadolint infra/docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/python -m pytest tests/infra --quiet

bench: $(DEV) ## Measure the whole path against the same engine in process
	$(BIN)/python -m tests.bench.path $(ARGS)

bench-engine: $(DEV) ## Measure the engine alone against transformers, vLLM, OpenVINO and llama.cpp
	$(BIN)/python -m tests.bench.engine $(ARGS)

chaos: $(DEV) ## Kill replicas and gateways under streams, and compare each one with its undisturbed run
	$(BIN)/python -m tests.chaos $(ARGS)

soak: $(DEV) ## Half an hour of calls of every kind, and whether memory, descriptors, threads, tasks or spans grow
	$(BIN)/python -m tests.chaos.soak $(ARGS)

eval: $(DEV) ## Measure what each quantization costs in quality, against float32; writes docs/quality.md
	$(BIN)/python -m tests.bench.quality $(ARGS)

image: ## Build the container image IMAGE
	docker build --file infra/docker/Dockerfile --tag $(IMAGE) $(ARGS) .

deploy: ## Apply OVERLAY to the current Kubernetes cluster, which refuses what it does not know
	$(KUBECTL) apply --validate=strict --kustomize $(OVERLAY)

# --- keep

constraints: ## Resolve pyproject.toml afresh into constraints.txt
	rm -rf build/resolve && $(PYTHON) -m venv build/resolve
	build/resolve/bin/pip --disable-pip-version-check install --quiet '.[dev]'
	{ sed '/^[^#]/,$$d' constraints.txt; \
	  build/resolve/bin/pip freeze --exclude qwire | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

hooks: $(DEV) ## Run lint and format before each commit
	$(BIN)/pre-commit install

clean: ## Remove .venv and everything generated; the model cache stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
