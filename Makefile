# Two cores are enough for everything here. `make demo` and `make test` set themselves up.
PYTHON ?= python3
VENV := .venv
UV := .tool/bin/uv
DATA ?=
export PYTHONUNBUFFERED := 1
# Compiled modules are kept, also where the environment says otherwise: without them each process that imports torch
# compiles ten thousand files anew, for ten seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test chaos check format openapi lock clean

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

# Two processes of one thread each use two cores better than one of two threads.
# More options for pytest: make test PYTEST="-x -k loop"
test: setup
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST)

# Kills, stops and crashes everything at random under a thousand jobs. Half an hour or less; other sizes and a page:
# make chaos CHAOS="--jobs 100 --kills 30 --seed 7 --markdown chaos.md"
chaos: setup
	$(VENV)/bin/python -m benchmarks.chaos $(CHAOS)

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

# Refresh requirements.lock after a change of the dependencies in pyproject.toml, and the peers' of the benchmarks.
lock: | .tool/bin/uv
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--python-version 3.11 --output-file benchmarks/mlflow.lock benchmarks/mlflow.in
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--all-extras --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .tool demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
