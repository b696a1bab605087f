# The two commands of the README; both install by themselves.
VENV := .venv
PY := $(VENV)/bin/python
export HF_HUB_OFFLINE := 1
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: install test lint

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	python3.11 -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch==2.13.0
	$(PY) -m pip install -q -c constraints.txt -e ".[demo,dev,tracking]"
	touch $@

lint: install
	$(VENV)/bin/ruff check clm_ray jobs tests
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint
	$(VENV)/bin/pytest -q -m "not ray and not chaos"
	$(VENV)/bin/pytest -q -m "ray and not chaos"
