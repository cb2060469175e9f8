import gc

import pytest


@pytest.fixture
def frozen_heap():
    """Damage is followed by a garbage collection, which in a process that has run many tests takes
    longer than all else that a case does: it passes over what is there by now."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
