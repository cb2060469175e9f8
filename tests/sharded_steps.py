"""Compiled train steps of real networks on a mesh of simulated devices."""

import jax
import numpy as np

from cdt import from_config
from cdt.config import default_config
from cdt.devices import sharding

BATCH, STEPS = 32, 20
NETWORKS = {
    "dit": {"model.hidden_size": 32, "model.depth": 2},
    "ddpmpp": {"model.channels": 32, "model.num_blocks": 1, "model.attention_resolutions": (8,)},
}


def small(network):
    config = default_config()
    config.update_from_flattened_dict(
        {"data.name": "mock", "data.image_size": 16, "data.channels": 3, "model.name": network,
         "model.num_classes": 10, "train.batch_size": BATCH, "mesh.min_shard_size": 512,
         "sample.steps": 2, "sample.guidance": 2.0}
        | NETWORKS[network]
    )  # fmt: skip
    return config


def mesh_of(data, fsdp):
    return sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])


def batch_of(source, step):
    indices = (np.arange(BATCH) + step * BATCH) % source.size
    return {"image": source.images(indices), "label": source.labels[indices]}


def compiled_step(config, mesh):
    """Return (initial state, compiled train step, source)."""
    source, _ = from_config.data(config)
    parts = from_config.training(
        config, from_config.model(config, mesh), mesh.size, source.size, STEPS // 2
    )
    key = jax.random.key(0)
    shapes = jax.eval_shape(parts.init, key)
    placed = sharding.state_sharding(mesh, shapes, config.mesh.min_shard_size)
    batch = sharding.abstract_batch(mesh, batch_of(source, 0), BATCH)
    program = jax.jit(parts.step, out_shardings=(placed, sharding.replicated(mesh)))
    step = program.lower(sharding.abstract(shapes, placed), batch).compile()
    return jax.jit(parts.init, out_shardings=placed)(key), step, source
