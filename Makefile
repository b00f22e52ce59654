# `make demo` and `make test` do all the set-up themselves; both are quick the second time.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Two busy cores make torch's default thread count many times slower on small models.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-real test-browser test-all lint docs bench-quick audit wheel clean

# A real model gains from every core, unlike the tests' tiny ones.
demo: $(STAMP)
	OMP_NUM_THREADS=$$($(PYTHON) -c 'import os; print(os.cpu_count())') $(BIN)/easyedit-personal demo

# A process per core; a file's tests stay together, since they share what they load.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile

# SmolLM2 through every door; downloads the model (93 MB) unless it is in the cache.
test-real: $(STAMP)
	$(BIN)/python -m pytest -m "real and not slow and not server and not easyedit" tests/real

# The page in Chromium (Debian: apt-get install chromium).
test-browser: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e ".[browser]"
	$(BIN)/python -m pytest -m "browser and not real"

test-all: $(STAMP)
	$(BIN)/python -m pytest -m ""

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What documents quote exists, and their Python runs.
docs: $(STAMP)
	$(BIN)/python -m pytest -m "" tests/house/test_documents.py

# Some minutes on one core, to try a change: two users on the default model, the store, the cost of changing users.
bench-quick: $(STAMP)
	$(BIN)/easyedit-personal evaluate --method lowrank,in_prompt,zero_shot --size 2 --cluster-size 9 --out build/bench-quick
	$(BIN)/python -m benchmarks.store --users 2000
	$(BIN)/python -m benchmarks.speed swap --pairs 3
	$(BIN)/python -m benchmarks.fuzz --cases 300

# Fails where pip-audit reaches neither PyPI nor OSV, or finds versions that they do not know; offline: SECURITY.md.
audit: $(STAMP)
	test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install -q pip-audit; }
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt
	$(BIN)/pip check

# The same commit gives the same bytes: no file is younger than it, no temporary folder is named.
wheel: $(STAMP)
	rm -rf build
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} $(BIN)/python -m build --wheel --no-isolation
	sha256sum dist/*.whl

# torch goes first and pinned: see constraints.txt.
$(STAMP): setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-audit build dist *.egg-info
