# Every target sets up what it needs. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.headrace-setup
# pip needs no index address here: it uses the one that the machine is set up with.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header
export PYTHONPATH := tests
# Downloads of gigabytes: a slow index is waited for, and what breaks off is asked for again.
export UV_HTTP_TIMEOUT ?= 300
export UV_HTTP_RETRIES ?= 8
export PIP_DEFAULT_TIMEOUT ?= 300
export PIP_RETRIES ?= 8

.PHONY: help setup demo test test-nightly test-gpu check generate docs pictures bench lock sbom wheels audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## everything into .venv, from the hash-pinned requirements

$(STAMP): requirements/build.txt requirements/dev.txt operator/pyproject.toml server/pyproject.toml router/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	$(BIN)/uv pip sync --require-hashes requirements/dev.txt
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e operator -e server -e router
	@touch $@

demo: setup ## the whole product on a local cluster: apply, stream, scale up, scale down (KEEP=1 leaves it running)
	$(BIN)/python -m demo $(if $(KEEP),--keep)

test: setup ## unit, property, gRPC on loopback, and end to end on the local cluster
	$(BIN)/python -m cluster.prepare
	$(BIN)/python -m pytest $(ARGS)

test-nightly: setup ## the scheduler's properties with 10,000 examples each: hours
	$(BIN)/python -m pytest tests/server/engine --hypothesis-profile=nightly --timeout=0 $(ARGS)

test-gpu: setup ## what needs a CUDA device of compute capability 9.0 or more: kernels, captured graphs
	$(BIN)/python -m pytest tests/gpu $(ARGS)

check: setup ## format, lint, types, import walls
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: setup ## write again what is generated: gRPC code, the chart's copy of the CRD, its page, its golden renders
	server/generate.sh $(BIN)/python
	PYTHONPATH=charts $(BIN)/python -m dashboards
	$(BIN)/python docs/site/crd.py
	cp crds/*.yaml charts/headrace/files/crds/
	PYTHONPATH=tests:tests/support $(BIN)/python -m chart

docs: setup ## the documentation as a site, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html"

pictures: setup ## what docs/ui.md shows, taken anew from a browser while a local cluster scales: three minutes
	$(BIN)/python -m cluster.prepare
	PYTHONPATH=tests:tests/support $(BIN)/python -m demo.pictures

bench: setup ## what we claim, measured here, with what every checkout has: prints all sides in one run (BENCH="host_step window" for some)
	@$(if $(filter scaling operator_scale,$(BENCH)),$(BIN)/python -m cluster.prepare,true)
	$(foreach bench,$(BENCH),$(BIN)/python bench/$(bench).py $(BENCH_$(bench)) --json - &&) true

# All that needs no peer's environment. Where the full size takes long, a cheap one: docs/benchmarks.md has the full ones.
BENCH ?= autoscaler decide_speed host_step joining engine scheduling offline_cost window row_sizes economics speculation lora embed router soak scaling operator_scale
BENCH_autoscaler := $(if $(TRACE),--trace $(TRACE))
BENCH_decide_speed := --deployments 50
BENCH_scheduling := --turns 2 --seconds 15
BENCH_offline_cost := --turns 1 --seconds 20 --loads 0.5
BENCH_lora := --turns 1
BENCH_embed := --peers "" --rounds 1
BENCH_soak := --minutes 1
BENCH_economics := --rounds 1
BENCH_speculation := --rounds 1 --requests 1,4
BENCH_scaling := --only rise
BENCH_operator_scale := --deployments 20 --pods 2 --seconds 30

lock: setup ## resolve requirements/*.in again
	$(COMPILE) --upgrade requirements/build.in -o requirements/build.txt
	$(COMPILE) -c requirements/build.txt --upgrade requirements/dev.in -o requirements/dev.txt
	for image in operator server router; do $(COMPILE) -c requirements/dev.txt requirements/$$image.in -o requirements/$$image.txt; done
	$(COMPILE) --no-emit-package torch -c requirements/server.txt --override requirements/server-cpu.overrides requirements/server-cpu.in -o requirements/server-cpu.txt
	$(COMPILE) --upgrade requirements/audit.in -o requirements/audit.txt

sbom: setup ## a CycloneDX bill of materials for each image, and the licences in it, into dist/sbom
	$(BIN)/python requirements/sbom.py operator server router --into dist/sbom

wheels: setup ## what the images install of ours, into dist/wheels; the same bytes every time
	for project in operator server router; do $(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist/wheels $$project; done

audit: setup ## known vulnerabilities of what the images hold; asks PyPI, and fails where it cannot
	$(BIN)/uv venv --quiet --clear build/audit
	$(BIN)/uv pip install --quiet --python build/audit/bin/python --require-hashes -r requirements/audit.txt
	for image in operator server router; do build/audit/bin/pip-audit --strict $(AUDIT) --disable-pip --require-hashes -r requirements/$$image.txt; done

clean: ## remove .venv and caches of this checkout (the control-plane build stays in the user's cache)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
