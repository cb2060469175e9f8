import gc

import pytest


@pytest.fixture
def frozen_heap():
    """Freeze the existing objects, so that the garbage collector skips them.

    cdt collects garbage after damage. In a process that has run many tests, this would take longer
    than the rest of a test.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
