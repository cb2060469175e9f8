"""The program of several processes that test_exchange.py runs.

Its arguments are the flags of cdt.main that connect the processes; in a cluster there are none.
"""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from cdt.data.pipeline import make_batch
from cdt.data.sources import in_memory
from cdt.devices import sharding
from cdt.devices.agreement import check_equal, errors_of_all, gather
from cdt.devices.processes import join, together
from cdt.errors import UserError

BATCH, SIZE, STEPS = 16, 40, 5

where = [argument.partition("=")[2] for argument in sys.argv[1:]] or [None] * 3
join(
    where[0], where[1] and int(where[1]), where[2] and int(where[2]),
    connect_seconds=60, heartbeat_seconds=30, stops_together=False,
)  # fmt: skip
with together():
    me, count = jax.process_index(), jax.process_count()
    assert count > 1
    assert gather({"id": me}) == [{"id": k} for k in range(count)]
    assert gather("x" * (5000 * me)) == ["x" * (5000 * k) for k in range(count)]

    # Neighbours in the mesh belong to different processes, so no process has contiguous rows.
    devices = np.array(jax.devices()).reshape(count, -1).T.reshape(2, -1)
    mesh = Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = sharding.local_rows(mesh, BATCH)
    assert np.diff(rows).max() > 1
    assert sorted(sum(gather(rows.tolist()), [])) == list(range(BATCH))

    images = np.arange(SIZE, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    source = in_memory("numbered", images, np.arange(SIZE, dtype=np.int32) % 10, 10)
    options = dict(seed=0, batch_size=BATCH, flip=True)
    own, whole = make_batch(source, rows=rows, **options), make_batch(source, **options)
    seen = []
    for step in range(STEPS):
        for local in (own(step), whole(step)):
            batch = sharding.global_batch(mesh, local, BATCH)
            for name, array in batch.items():
                for shard in array.addressable_shards:
                    np.testing.assert_array_equal(shard.data, whole(step)[name][shard.index])
        seen += own(step)["image"][:, 0, 0, 0].tolist()
    # Two epochs are 80 examples: all processes together have seen each example twice.
    everything = np.array(sum(gather(seen), []))
    assert np.array_equal(np.bincount(everything, minlength=SIZE), np.full(SIZE, 2))

    check_equal({"same": [1, 2]})
    try:
        check_equal({"version": "1.0" if me else "2.0", "same": 1})
    except UserError as error:
        others = ", ".join(map(str, range(1, count)))
        assert f'version ("2.0" on process 0 and "1.0" on process {others})' in str(error)
    else:
        raise AssertionError
    try:
        with errors_of_all():
            if me == 1:
                raise UserError("No file.")
    except UserError as error:
        assert str(error) == ("No file." if me == 1 else "Process 1 has stopped: No file.")
    else:
        raise AssertionError
print("done")
