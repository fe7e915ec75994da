# Two cores are enough for everything here. `make demo` and `make test` set themselves up.
PYTHON ?= python3
VENV := .venv
UV := .tool/bin/uv
DATA ?=
export PYTHONUNBUFFERED := 1
# Compiled modules are kept, also where the environment says otherwise: without them each process that imports torch
# compiles ten thousand files anew, for ten seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test chaos bench peers check format openapi lock clean

setup: $(VENV)/.ready

.tool/bin/uv:
	$(PYTHON) -m venv .tool
	.tool/bin/pip install --quiet --disable-pip-version-check uv

# The marker is newer than what it was made from, so a changed lock makes the environment anew.
# A change of pyproject.toml alone needs the editable install again, for its entry points.
$(VENV)/.ready: requirements.lock pyproject.toml | .tool/bin/uv
	@test -x $(VENV)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(VENV)/bin/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(VENV)/bin/distillery demo $(if $(DATA),--data $(DATA)) --out demo

# Processes of one thread each use cores better than one of two threads; two more fill the others' waits.
# More options for pytest: make test PYTEST="-x -k loop"
test: setup
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest --numprocesses 4 --dist loadfile \
		--no-loadscope-reorder $(PYTEST)

# Kills, stops and crashes everything at random under a thousand jobs. Half an hour or less; other sizes and a page:
# make chaos CHAOS="--jobs 100 --kills 30 --seed 7 --markdown chaos.md"
chaos: setup
	$(VENV)/bin/python -m benchmarks.chaos $(CHAOS)

# The short forms of what docs/performance.md tells, a few minutes each. With real images: make bench DATA=FOLDER,
# where FOLDER holds CIFAR-10; else on digits, which are so small that little of it holds for anything else.
bench: setup peers
	$(VENV)/bin/python -m benchmarks.training --data $(or $(DATA),digits) --pair resnet56:resnet20 --images 1280 \
		--rounds 3 --seconds 3
	$(VENV)/bin/python -m benchmarks.sweep --data $(or $(DATA),digits) --images 256 --epochs 8
	$(VENV)/bin/python -m benchmarks.api --short

# What training is measured against: torchdistill in an environment of its own, with the same torch as ours.
peers: .peers/.ready

.peers/.ready: benchmarks/peers.lock | .tool/bin/uv
	@test -x .peers/bin/python || $(UV) venv --quiet --python $(PYTHON) .peers
	$(UV) pip sync --quiet --python .peers/bin/python --require-hashes benchmarks/peers.lock
	@touch $@

check: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: setup
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# Accept a deliberate change of the API surface.
openapi: setup
	$(VENV)/bin/python -m app.openapi > tests/app/openapi.json

# Refresh the locks after a change of the dependencies in pyproject.toml or of a peer in benchmarks/*.in.
lock: | .tool/bin/uv
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--python-version 3.11 --output-file benchmarks/mlflow.lock benchmarks/mlflow.in
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--all-extras --output-file requirements.lock pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--constraints requirements.lock --output-file benchmarks/peers.lock benchmarks/peers.in

clean:
	rm -rf $(VENV) .peers .tool demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
