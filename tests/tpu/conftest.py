"""Compilation for TPUs by libtpu, which needs none; `make test-tpu` installs it."""

import pytest

from benchmarks import targets

pytest.importorskip("libtpu")
targets.prepare_environment()
