"""Compilation for TPUs by libtpu, without a TPU; `make test-tpu` installs libtpu."""

import pytest

from benchmarks import targets

pytest.importorskip("libtpu")
targets.prepare_environment()
