# Two commands do all the set-up: `make train` and `make test`. Both make the virtual environment
# .venv from the python3 on PATH (PYTHON=python3.12 for another one); nothing is installed elsewhere.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := runs/digits

PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile

.PHONY: train test test-fast test-long test-faults test-notebooks test-matrix test-peers test-tpu test-slurm test-all
.PHONY: environments docs lint format

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -r requirements.txt
	touch $@

$(VENV)/installed-test: $(VENV)/installed requirements-test.txt
	$(VENV)/bin/python -m pip install -q -r requirements-test.txt
	touch $@

# $(call beside,NAME): an environment that has what .venv has, for packages that .venv must not have.
define beside
	$(PYTHON) -m venv $(1)
	$(VENV)/bin/python -c "$(PACKAGES)" >"$$($(1)/bin/python -c "$(PACKAGES)")/venv.pth"
endef
PACKAGES := import sysconfig; print(sysconfig.get_path('purelib'))

# PyTorch, and libraries that bring it.
.venv-peers/installed: $(VENV)/installed-test requirements-peers.txt
	$(call beside,.venv-peers)
	.venv-peers/bin/python -m pip install -q --no-deps -r requirements-peers.txt
	touch $@

# Trains the digits and measures the samples; run again to resume.
train: $(VENV)/installed
	$(VENV)/bin/python -m cdt.main --config=configs/digits.py --workdir=$(RUN)
	$(VENV)/bin/python -m cdt.main --config=configs/digits.py --workdir=$(RUN) --mode=evaluate

# What each target tests, how long it takes, and which of them .ci/run has: docs/testing.md.
test: lint
	$(PYTEST)

# While editing: the heart, and which way imports go.
test-fast: $(VENV)/installed-test
	$(PYTEST) tests/curriculum tests/timesteps tests/diffusion tests/sampling tests/test_doors.py

# Whole runs, real processes, and every combination of what `make test` tries once.
test-long: $(VENV)/installed-test
	$(PYTEST) -m 'long and not slow'

# What takes longest: most of it kills, signals, damage, full disks.
test-faults: $(VENV)/installed-test
	$(PYTEST) -m slow

test-notebooks: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -n 2 tests/notebooks

test-all: test test-long test-faults test-notebooks test-peers test-tpu docs test-matrix

# All that .ci/run needs. With -j2 two are installed at a time.
environments: $(VENV)/installed-test .venv-peers/installed .venv-tpu/installed .venv-docs/installed

# A short suite on the other Pythons that are found here, and other series of JAX.
test-matrix:
	PYTHON=$(PYTHON) .ci/matrix

test-peers: .venv-peers/installed
	.venv-peers/bin/python -m pytest -n 2 --dist loadfile tests/peers

# Programs compiled for slices of TPUs that are not there. Where libtpu is installed, JAX and cdt take
# the machine for a TPU's.
.venv-tpu/installed: $(VENV)/installed-test requirements-tpu.txt
	$(call beside,.venv-tpu)
	.venv-tpu/bin/python -m pip install -q -r requirements-tpu.txt
	touch $@

test-tpu: .venv-tpu/installed
	.venv-tpu/bin/python -m pytest -n 2 tests/tpu

# Jobs in a SLURM of three nodes, which are namespaces of this machine. Takes ten minutes, root, and of
# Debian's packages slurmctld, slurmd, slurm-client and iproute2.
test-slurm: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest tests/slurm

# The site needs neither JAX nor any other requirement of cdt, so it has an environment of its own.
.venv-docs/installed: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q -r requirements-docs.txt
	touch $@

# NO_MKDOCS_2_WARNING keeps the theme's announcement of its successor out of the output.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=true .venv-docs/bin/mkdocs build --quiet --strict

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/installed-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
