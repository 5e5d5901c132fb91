# Two commands for a fresh machine: `make demo` and `make test`. Each installs what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test container-test check format install dashboard monitoring-tools lock clean

demo: install
	$(BIN)/python examples/demo.py

# Tests run side by side, so each has one thread for its arithmetic, and waits without spinning.
test: check
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --durations=30 --durations-min=10

# Needs root, and buildah, debootstrap and runc of Debian; no daemon.
container-test: install
	$(BIN)/python -m pytest -m container tests/container

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: .venv/installed

.venv/installed: requirements/uv.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "tlserve needs Python 3.11 to 3.13; pass one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/dev.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Writes the file that Grafana reads; run after changing deploy/dashboard/.
dashboard: install
	$(BIN)/python -m deploy.dashboard

# What tests/deploy/ checks Prometheus's files with, on Debian and Ubuntu; without it those tests skip.
# The package would start a Prometheus of its own where systemd runs.
monitoring-tools:
	apt-get install --yes --no-install-recommends prometheus
	if [ -d /run/systemd/system ]; then systemctl disable --now prometheus; fi

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

# Pins every dependency with its hashes; run after changing pyproject.toml.
lock: install
	$(LOCK) --extra train --extra timm --extra distributed --extra plots --extra tracing --extra openvino --extra gpu --group dev pyproject.toml \
	  -o requirements/dev.txt
	echo uv | $(LOCK) - -o requirements/uv.txt
	for flavour in cpu gpu openvino torch; do \
	  $(LOCK) --extra $$flavour pyproject.toml -o tlserve/container/locks/$$flavour.txt || exit 1; done
	echo cyclonedx-bom | $(LOCK) - -o tlserve/container/locks/sbom.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
