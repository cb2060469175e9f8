# `make train` and `make test` need no other setup. Both create the virtual environment .venv with
# the python3 on PATH (PYTHON=python3.12 for another one). Nothing is installed elsewhere.
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

# $(call beside,NAME): an environment with the packages of .venv, to which others can be added.
define beside
	$(PYTHON) -m venv $(1)
	$(VENV)/bin/python -c "$(PACKAGES)" >"$$($(1)/bin/python -c "$(PACKAGES)")/venv.pth"
endef
PACKAGES := import sysconfig; print(sysconfig.get_path('purelib'))

# PyTorch and libraries that depend on it.
.venv-peers/installed: $(VENV)/installed-test requirements-peers.txt
	$(call beside,.venv-peers)
	.venv-peers/bin/python -m pip install -q --no-deps -r requirements-peers.txt
	touch $@

# Train on the digits and evaluate the samples; the same command resumes.
train: $(VENV)/installed
	$(VENV)/bin/python -m cdt.main --config=configs/digits.py --workdir=$(RUN)
	$(VENV)/bin/python -m cdt.main --config=configs/digits.py --workdir=$(RUN) --mode=evaluate

# docs/testing.md: what each target tests, how long it takes, and which targets .ci/run includes.
test: lint
	$(PYTEST)

# While editing: the core, and the rules for imports between packages.
test-fast: $(VENV)/installed-test
	$(PYTEST) tests/curriculum tests/timesteps tests/diffusion tests/sampling tests/test_doors.py

# Whole runs, real processes, and all combinations of which `make test` tests one.
test-long: $(VENV)/installed-test
	$(PYTEST) -m 'long and not slow'

# The slowest tests, mostly of failures: kills, signals, damaged files, full disks.
test-faults: $(VENV)/installed-test
	$(PYTEST) -m slow

test-notebooks: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -n 2 tests/notebooks

test-all: test test-long test-faults test-notebooks test-peers test-tpu docs test-matrix

# All environments that .ci/run needs. With -j2, two are installed at a time.
environments: $(VENV)/installed-test .venv-peers/installed .venv-tpu/installed .venv-docs/installed

# A short suite on the other Python versions of this machine, and on other versions of JAX.
test-matrix:
	PYTHON=$(PYTHON) .ci/matrix

test-peers: .venv-peers/installed
	.venv-peers/bin/python -m pytest -n 2 --dist loadfile tests/peers

# Programs compiled for TPU slices, without a TPU. They need an environment of their own: if libtpu
# is installed, JAX and cdt assume that the machine has a TPU.
.venv-tpu/installed: $(VENV)/installed-test requirements-tpu.txt
	$(call beside,.venv-tpu)
	.venv-tpu/bin/python -m pip install -q -r requirements-tpu.txt
	touch $@

test-tpu: .venv-tpu/installed
	.venv-tpu/bin/python -m pytest -n 2 tests/tpu

# Jobs in a SLURM cluster of three nodes, which are namespaces of this machine. It takes ten minutes
# and needs root and the Debian packages slurmctld, slurmd, slurm-client and iproute2.
test-slurm: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest tests/slurm

# The site needs neither JAX nor other requirements of cdt, so it has its own environment.
.venv-docs/installed: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q -r requirements-docs.txt
	touch $@

# NO_MKDOCS_2_WARNING suppresses an announcement of the theme.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=true .venv-docs/bin/mkdocs build --quiet --strict

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/installed-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
