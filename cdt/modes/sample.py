"""--mode=sample: PNG grids and an npz of images from the newest checkpoint of a run."""

import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cdt import from_config
from cdt.devices import sharding
from cdt.devices.agreement import errors_of_all
from cdt.diffusion.denoiser import Condition
from cdt.errors import EXIT_FINISHED, UserError, user_errors
from cdt.files import atomic
from cdt.monitoring import plots
from cdt.training import posthoc_ema
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.record import check_identity, recorded_config

PyTree = Any


def evaluations(config: ConfigDict) -> int:
    """Evaluations of the network an image costs, guidance counted twice."""
    nfe = 2 * config.sample.steps - 1 if config.sample.sampler == "heun" else config.sample.steps
    return nfe * (2 if config.sample.guidance != 1.0 else 1)


def generate(
    sample: Callable[[PyTree, jax.Array, Condition], jax.Array],
    mesh: jax.sharding.Mesh,
    params: PyTree,
    condition: Callable[[np.ndarray], dict[str, np.ndarray]],
    n: int,
    batch_size: int,
) -> np.ndarray | None:
    """Images 0..n-1, batch after batch, split over the devices of all processes.

    Args:
      sample: (params, indices, condition) -> uint8[B, H, W, C], from `from_config.sampler`.
      mesh: devices.
      params: f32.
      condition: indices -> what those images are to show, from `from_config.sample_condition`.
      n: number of images.
      batch_size: images at a time, rounded up to a multiple of the devices.

    Returns:
      uint8[n, H, W, C] on the host of process 0, None on the others.
    """
    size = -(-min(batch_size, n) // mesh.size) * mesh.size
    images = []
    for start in range(0, n, size):
        # The last batch is filled up with images that are thrown away: one shape, one compilation.
        indices = np.arange(start, start + size, dtype=np.int32)
        told = sharding.global_batch(mesh, condition(np.minimum(indices, n - 1)), size)
        placed = sharding.global_batch(mesh, {"indices": indices}, size)["indices"]
        batch = multihost_utils.process_allgather(sample(params, placed, told), tiled=True)
        if jax.process_index() == 0:
            images.append(batch)
    return np.concatenate(images)[:n] if images else None


def load_params(
    config: ConfigDict, workdir: epath.Path, mesh: jax.sharding.Mesh, model: from_config.Model
) -> tuple[int, PyTree]:
    """(step, params) of the newest checkpoint: the average named in the config, or the raw ones.

    Raises:
      UserError: there is no checkpoint, or it belongs to another config.
    """
    check_identity(workdir, config)
    name = from_config.ema_name(config)
    std = from_config.posthoc_std(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    if name == "raw":
        item, tree = "params", shapes
    else:
        item, tree = "ema", {name: shapes for name in from_config.ema_decays(config)}
    shardings = sharding.state_sharding(mesh, tree, config.mesh.min_shard_size)
    placed = sharding.abstract(tree, shardings)
    checkpoints = Checkpointer(workdir / "checkpoints", keep=config.checkpoint.keep)
    step, items, _ = checkpoints.restore_items({item: placed})
    if std is not None:
        return step, put_together(checkpoints, items[item], config.ema.power_stds, std, step)
    return step, items[item] if name == "raw" else items[item][name]


def put_together(
    checkpoints: Checkpointer,
    averages: dict[str, PyTree],
    stds: Sequence[float],
    std: float,
    step: int,
) -> PyTree:
    """The power-function average of any width at `step`; see `cdt.training.posthoc_ema`.

    Args:
      checkpoints: of the run; all that are older are used, so the more were kept, the closer.
      averages: name -> f32 params, as they are at `step`.
      stds: relative widths of the averages that the run tracks.
      std: of the wanted one.
      step: steps done.

    Raises:
      UserError: nothing was done yet, or an older checkpoint is damaged.
    """
    if step < 1:
        raise UserError(
            "config.sample.ema asks for an average that is put together, but the checkpoint is of "
            "step 0, where nothing has been averaged; give 'raw'."
        )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), averages
    )
    steps = [step, *(older for older in checkpoints.steps() if older < step)]
    stored = list(itertools.product(steps, stds))
    shares = dict(zip(stored, posthoc_ema.weights(stored, std).tolist(), strict=True))
    total = None
    for at in steps:
        if at != step:
            averages = checkpoints.restore_items({"ema": abstract}, at)[1]["ema"]
        for width in stds:
            share = shares[at, width]
            part = jax.tree.map(lambda x, c=share: c * x, averages[from_config.power_name(width)])
            total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


def initial_params(config: ConfigDict, mesh: jax.sharding.Mesh, model: from_config.Model) -> PyTree:
    """What the run in `init_from` samples with, for a run that starts there; with the classes that
    its network knows, which may be others, see `with_classes`.

    Raises:
      UserError: there is no such run, or its network is another.
    """
    workdir = epath.Path(config.init_from).expanduser()
    try:
        theirs = recorded_config(workdir)
        theirs.mesh = config.mesh
        heads = [from_config.attention_heads(c) for c in (theirs, config)]
        if heads[0] != heads[1]:
            raise UserError(
                f"its network has {heads[0]} attention heads and this run's {heads[1]}; give the "
                "same config.model."
            )
        known, wanted = theirs.model.num_classes, config.model.num_classes
        if known and not wanted:
            raise UserError(
                f"its network is told one of {known} classes and this run's none; give "
                "config.model.num_classes, of those of your data."
            )
        if known != wanted:
            like_theirs = config.copy_and_resolve_references()
            like_theirs.model.num_classes = known
            model = from_config.model(like_theirs, mesh)
        _, params = load_params(theirs, workdir, mesh, model)
    except UserError as error:
        raise UserError(f"config.init_from is '{config.init_from}': {error}") from error
    return params


def describe(config: ConfigDict, step: int, n: int) -> dict[str, object]:
    """What must stand beside every picture and figure made from samples."""
    channels = config.sample.guidance_channels
    return {
        "step": step,
        "sampler": config.sample.sampler,
        "sampler_steps": config.sample.steps,
        "evaluations": evaluations(config),
        "guidance": config.sample.guidance,
        **({"guidance_channels": channels} if channels else {}),
        "ema": from_config.ema_name(config),
        "n": n,
        "seed": config.sample.seed,
    }


def sample(config: ConfigDict, workdir: str) -> int:
    """Writes `samples/step_<step>/grid.png`, `samples.npz` (arr_0 uint8[n, H, W, C], arr_1 int32[n]
    labels where there are classes, captions str[n] where the model reads text) in the workdir;
    returns the exit code."""
    path = epath.Path(workdir)
    with errors_of_all(), user_errors():
        mesh = from_config.mesh(config)
        model = from_config.model(config, mesh)
        run = from_config.sampler(config, model)
        n = config.sample.num
        condition = from_config.sample_condition(config, model)
        captions_of = from_config.sample_captions(config)
    with user_errors():
        step, params = load_params(config, path, mesh, model)
    images = generate(run, mesh, params, condition, n, config.sample.batch_size)
    if images is None:
        return EXIT_FINISHED

    folder = path / "samples" / f"step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    columns = min(10, len(config.sample.prompts) or model.num_classes or n)
    arrays, grid = {"arr_0": images}, plots.image_grid(images[:100], columns)
    labels = condition(np.arange(n)).get("label")
    if labels is not None:
        arrays["arr_1"] = labels
    if captions_of is not None:
        captions = captions_of(np.arange(n))
        arrays["captions"] = np.array(captions)
        grid = plots.captioned_grid(images[:100], captions[:100], columns)
    plots.save_png(folder / "grid.png", grid)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    atomic.write(folder / "samples.npz", buffer.getvalue())
    about = ", ".join(f"{k} {v}" for k, v in describe(config, step, len(images)).items())
    print(f"{folder / 'samples.npz'}: {about}")
    print(f"{folder / 'grid.png'}: the first {len(images[:100])}")
    return EXIT_FINISHED
