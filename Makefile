# The two commands of the README; both install by themselves.
VENV := .venv
PY := $(VENV)/bin/python
export HF_HUB_OFFLINE := 1
export RAY_AUTH_MODE := token
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: install quickstart stop movielens test test-all lint format

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	python3.11 -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch==2.13.0
	$(PY) -m pip install -q -c constraints.txt -e ".[demo,dev]"
	touch $@

quickstart: install
	$(PY) -m jobs.pipeline --local --recipe complete_journey

stop: install
	$(PY) -m jobs.cluster stop

movielens: install
	$(PY) -m clm_ray.data.sources.movielens

format: install
	$(VENV)/bin/ruff check --fix -q clm_ray jobs benchmarks tests
	$(VENV)/bin/ruff format -q clm_ray jobs benchmarks tests

lint: install
	$(VENV)/bin/ruff check clm_ray jobs benchmarks tests
	$(VENV)/bin/ruff format --check -q clm_ray jobs benchmarks tests
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	! find tests -name "*.py" ! -name conftest.py -printf "%f\n" | sort | uniq -d | grep .  # a name of its own for each test file and each helper

test: lint
	$(VENV)/bin/pytest -q -n 2 --dist worksteal -m "not ray and not chaos and not slow"
	$(VENV)/bin/pytest -q -m "slow and not ray and not chaos"
	$(VENV)/bin/pytest -q -m "ray and not chaos"

test-all: test
	$(VENV)/bin/pytest -q -m chaos
