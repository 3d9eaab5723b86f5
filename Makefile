# Plain verbs; CI runs the same ones. `make serve` and `make test` need only Python 3.11+ and make.
PYTHON ?= python3
SERVE_PYTHON := .venv/bin/python
DEV_PYTHON := .venv-dev/bin/python
PIP_FLAGS := --disable-pip-version-check --quiet --constraint constraints.txt
CHECKED := src tests examples benchmarks

.PHONY: serve test test-slow check format lint types layers api bench transcript fleet-router coverage constraints clean

serve: .venv/.ready  ## start the gateway on 127.0.0.1:8080 (installs first; no torch)
	.venv/bin/thinkroute serve $(ARGS)

test: .venv-dev/.ready  ## install what tests need and run the default tests
	$(DEV_PYTHON) -m pytest -q $(ARGS)

test-slow: .venv-dev/.ready  ## the proofs that take minutes
	$(DEV_PYTHON) -m pytest -q -m slow $(ARGS)

check: format lint types layers test  ## everything a change must pass

format: .venv-dev/.ready
	$(DEV_PYTHON) -m ruff format --check $(CHECKED)

lint: .venv-dev/.ready
	$(DEV_PYTHON) -m ruff check $(CHECKED)

types: .venv-dev/.ready
	.venv-dev/bin/pyright

layers: .venv-dev/.ready
	.venv-dev/bin/lint-imports

api: .venv-dev/.ready  ## rewrite tests/public_api.txt after a deliberate change
	$(DEV_PYTHON) tests/public_api.py > tests/public_api.txt

bench: .venv-dev/.ready  ## added latency and CPU of the gateway; writes docs/results/overhead.json
	$(DEV_PYTHON) benchmarks/overhead.py

transcript: .venv-dev/.ready  ## the transcript of the README
	$(DEV_PYTHON) examples/transcript.py

fleet-router: .venv-dev/.ready  ## refit the router that is shipped for the embedded fleet
	.venv-dev/bin/thinkroute collect --fleet 1500 --seed 0 -o build/fleet-outcomes.parquet
	.venv-dev/bin/thinkroute fit build/fleet-outcomes.parquet -o src/thinkroute/fleet/router --router knn \
	  --encoder-set buckets=512 --encoder-set components=64 --encoder-set structure_weight=1.0

coverage: .venv-dev/.ready
	$(DEV_PYTHON) -m coverage run -m pytest -q
	$(DEV_PYTHON) -m coverage report --skip-covered --sort=cover

constraints: .venv-dev/.ready
	@$(DEV_PYTHON) -m pip freeze --exclude-editable | sed 's/+cpu$$//'

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(SERVE_PYTHON) -m pip install $(PIP_FLAGS) --editable .
	$(SERVE_PYTHON) -m compileall -q src
	touch $@

.venv-dev/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-dev
	$(DEV_PYTHON) -m pip install $(PIP_FLAGS) --upgrade "pip>=25.1"
	$(DEV_PYTHON) -m pip install $(PIP_FLAGS) --editable ".[train]" --group dev
	touch $@

clean:
	rm -rf .venv .venv-dev build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
