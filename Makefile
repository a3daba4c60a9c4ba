# Everything that one does with this repository. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Without its caches Python takes half a minute of every test run to read its own sources.
unexport PYTHONDONTWRITEBYTECODE
# These tests speak to this machine alone. Every program and every connection would else read all the authorities that
# the system trusts, a tenth of a second of CPU each time.
OFFLINE := SSL_CERT_FILE=$(CURDIR)/tests/nobody.pem

.PHONY: help
help: ## list what can be done
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The marker file is made anew when what is to be installed changed.
$(VENV)/.ready: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "dp-vllm needs Python 3.11 or newer; none was found. Say which: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check $$(grep -m1 -o '^uv==[0-9.]*' requirements.lock)
	@$(BIN)/uv pip sync -q --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## install everything into .venv

.PHONY: lock
lock: setup ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --extra operator --group dev --custom-compile-command "make lock" --upgrade -o requirements.lock pyproject.toml

.PHONY: serve
serve: setup ## four simulated engines behind one endpoint on port 8000
	@$(BIN)/dp-vllm serve demo/model --engine sim -dp 4

.PHONY: check
check: setup ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: setup ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The first time Kubernetes is built, in about 10 minutes on two cores.
.PHONY: control-plane
control-plane: setup
	@$(BIN)/python tests/cluster prepare

HERE := "not vllm and not docker and not e2e and not slurm and not exhaustive and not fuzz"

.PHONY: test
test: control-plane ## every test that this machine can run, and what it could not
	$(OFFLINE) $(BIN)/pytest -n 6 --dist worksteal -m $(HERE)

# A failure that comes once in many runs: make test-repeat N=50 TESTS="tests/local/test_segments.py -k swept"
N ?= 10
.PHONY: test-repeat
test-repeat: $(if $(TESTS),setup,control-plane) ## make test N times (10), or TESTS="what pytest is given"; stops at the first failure
	@$(OFFLINE) $(BIN)/python tests/repeat.py $(N) -m $(HERE) $(if $(TESTS),$(TESTS),-n 6 --dist worksteal)

.PHONY: test-exhaustive
test-exhaustive: control-plane ## what make test tries a few cases of, in every single one, and the benchmarks (a quarter of an hour)
	$(OFFLINE) $(BIN)/pytest -n 4 --dist worksteal -m exhaustive

# In all, divided among its parts. A failure names the FUZZ_SEED that repeats its case: make fuzz FUZZ_SEED=1
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: setup ## random requests, paths and messages against other readers of them, for FUZZ_SECONDS=60
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(if $(FUZZ_SEED),FUZZ_SEED=$(FUZZ_SEED)) $(BIN)/pytest tests/fuzz -m fuzz --timeout 3600 -rP -q

# In an environment of its own: an editable install, as in .venv, runs the sources.
COMPILED := .venv-compiled
$(COMPILED)/.ready: $(VENV)/.ready pyproject.toml gateway/hatch_build.py $(shell find gateway src -name '*.py')
	@rm -rf $(COMPILED)
	@DP_VLLM_COMPILE=1 $(BIN)/uv build --wheel --python $(BIN)/python --build-constraint requirements.lock --out-dir $(COMPILED)/dist
	@$(BIN)/uv venv -q --allow-existing --python $(BIN)/python $(COMPILED)
	@$(BIN)/uv pip sync -q --python $(COMPILED)/bin/python requirements.lock
	@$(BIN)/uv pip install -q --python $(COMPILED)/bin/python --no-deps $(COMPILED)/dist/*.whl
	@touch $@

.PHONY: test-compiled
test-compiled: $(COMPILED)/.ready ## the gateway's tests with what each request passes through compiled (needs a C compiler)
	@$(COMPILED)/bin/python -c 'from dp_vllm_gateway import proxy; assert proxy.__file__.endswith(".so"), proxy.__file__'
	$(COMPILED)/bin/pytest -n 6 --dist worksteal tests/gateway -m $(HERE)

.PHONY: test-vllm
test-vllm: setup ## the tests with the real vLLM on this machine's CPU (installed once, 6 GB in ~/.cache)
	@$(BIN)/python tests/vllm/run.py

.PHONY: test-docker
test-docker: setup ## the tests of the images, in a real Docker engine (as root one is started if none runs)
	@PYTHONPATH=tests $(BIN)/python -m docker.run

.PHONY: test-slurm
test-slurm: setup ## the tests in jobs of a real Slurm with two nodes, as root (unpacked from Debian's packages)
	@PYTHONPATH=tests $(BIN)/python -m slurm.run

.PHONY: e2e
e2e: setup ## the tests with real Kubernetes nodes, as root (Kubernetes is built once, in about 10 minutes)
	@PYTHONPATH=tests $(BIN)/python -m e2e.run

.PHONY: e2e-vllm
e2e-vllm: setup ## the same with the real vLLM in the pods, on the CPU (8 GB of memory)
	@PYTHONPATH=tests $(BIN)/python tests/vllm/run.py -- $(BIN)/python -m e2e.run -m "e2e and vllm"

.PHONY: images
images: setup ## build the Docker images, or some: make images IMAGES="operator gateway sim"
	@PYTHONPATH=tests $(BIN)/python -m docker.run images $(IMAGES)

RELEASE := .venv-release
$(RELEASE)/.ready: $(VENV)/.ready release/requirements.txt
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(RELEASE)
	@$(BIN)/uv pip sync -q --python $(RELEASE)/bin/python release/requirements.txt
	@touch $@

.PHONY: release-packages
release-packages: $(RELEASE)/.ready ## the wheel, the sdist, the chart and a bill of materials, built and checked
	@$(BIN)/python tests/cluster build helm
	@$(BIN)/python -m release
	@$(RELEASE)/bin/python release/bills.py dist/release

.PHONY: release
release: release-packages images ## the same, and the images where there is a Docker engine; uploads nothing
	@$(RELEASE)/bin/python release/bills.py dist/release dist/images

.PHONY: home
home: setup ## say where the project is at home: make home URL=https://...
	@$(BIN)/python -m release home $(URL)

.PHONY: release-lock
release-lock: setup ## renew release/requirements.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command "make release-lock" --upgrade -o release/requirements.txt release/requirements.in

.PHONY: bench
bench: setup ## what our gateway costs beside others (half an hour, on a quiet machine)
	$(BIN)/python bench/gateway.py
