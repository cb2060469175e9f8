"""Config -> samples of a model, and the feature space in which they are judged."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from cdt.devices.compilation import compiler_options
from cdt.diffusion.denoiser import Condition, Network, make_denoiser
from cdt.diffusion.guidance import classifier_free_guidance
from cdt.diffusion.pixels import to_uint8
from cdt.diffusion.process import Process
from cdt.errors import UserError
from cdt.evals.efficientnet_lite import efficientnet_lite0
from cdt.evals.features import FeatureFn, pixels
from cdt.evals.inception import inception
from cdt.from_config.choices import at_least, choose
from cdt.from_config.latent_space import decoder
from cdt.from_config.models import Model, network_at
from cdt.from_config.optimization import mesh
from cdt.sampling import grids
from cdt.sampling.ancestral import ancestral
from cdt.sampling.ddim import ddim
from cdt.sampling.dpm_solver import dpm_solver
from cdt.sampling.euler import euler
from cdt.sampling.euler_maruyama import euler_maruyama
from cdt.sampling.heun import heun
from cdt.sampling.noise import initial_noise, keyed_noise

PyTree = Any

# Heun and Euler need a derivative in the level, which the discrete family has not; the SDE is that
# of flow matching, as the others have stochastic samplers of their own.
SAMPLERS = {
    "ancestral": (ancestral, ("ddpm", "edm", "flow")),
    "ddim": (ddim, ("ddpm", "edm", "flow")),
    "dpm_solver": (dpm_solver, ("ddpm", "edm", "flow")),
    "heun": (heun, ("edm", "flow")),
    "euler": (euler, ("edm", "flow")),
    "euler_maruyama": (euler_maruyama, ("flow",)),
}
FEATURES = {
    "pixels": lambda c: pixels,
    "efficientnet-lite0": lambda c: efficientnet_lite0(batch_size=c.batch_size),
    "inception": lambda c: inception(c.weights or None, batch_size=c.batch_size),
}


def sampler(config: ConfigDict, model: Model) -> Callable[[PyTree, Array, Condition], Array]:
    """Returns sample(params, indices int32[B], condition) -> uint8[B, H, W, C], jitted.

    Image i depends on `sample.seed`, i and its condition alone: not on the batch or the devices.
    """
    c = config.sample
    for key in ("sample.num", "sample.batch_size"):
        at_least(config, key, 1)
    sample_levels, run = _levels_and_sampler(config, model.process)
    guided = c.guidance != 1.0
    if guided and not model.null:
        raise UserError(
            f"config.sample.guidance is {c.guidance}, but the model is unconditional "
            "(config.model.num_classes = 0); set it to 1."
        )
    if not 0 <= c.guidance_channels <= model.image_shape[-1]:
        raise UserError(
            f"config.sample.guidance_channels is {c.guidance_channels}; it must be 0, for all, or "
            f"at most {model.image_shape[-1]}, the channels of an example."
        )
    interval = tuple(c.guidance_interval)
    if len(interval) != 2 or not 0.0 <= interval[0] < interval[1] <= 1.0:
        raise UserError(
            f"config.sample.guidance_interval is {interval}; it must be two numbers with "
            "0 <= lo < hi <= 1, in u."
        )

    def sample(params: PyTree, indices: Array, condition: Condition) -> Array:
        network = network_at(model, params)

        def plain(x: Array, level: Array) -> Array:
            return network(x, level, condition)

        at: Network = plain
        if guided:
            at = classifier_free_guidance(
                network, model.process, condition, model.null, c.guidance,
                None if interval == (0.0, 1.0) else interval, c.guidance_channels or None,
            )  # fmt: skip
        denoise = make_denoiser(at, model.process, model.prediction, model.learn_variance, c.clip)
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(c.seed)))(indices)
        noise = keyed_noise(keys, model.image_shape)
        x = initial_noise(model.process, sample_levels, noise)
        return run(denoise, model.process, sample_levels, x, noise)

    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    if config.data.name != "latents":
        return jit(lambda *arguments: to_uint8(sample(*arguments)))
    # Two programs: the network's memory is free again while images are decoded.
    sample, decode = jit(sample), decoder(config, mesh(config))
    return lambda *arguments: decode(sample(*arguments))


def _levels_and_sampler(
    config: ConfigDict, process: Process
) -> tuple[np.ndarray, Callable[..., Array]]:
    """The grid of levels and the sampler with its options bound."""
    c = config.sample
    run, families = choose("sample.sampler", c.sampler, SAMPLERS)
    if process.name not in families:
        fitting = [name for name, (_, fits) in SAMPLERS.items() if process.name in fits]
        raise UserError(
            f"config.sample.sampler '{c.sampler}' does not fit the family '{process.name}'; use "
            f"{' or '.join(fitting)}."
        )
    if process.name == "edm":
        grid = grids.karras_sigmas(c.steps, c.sigma_min, c.sigma_max, c.rho)
    elif c.sampler == "euler_maruyama":
        grid = grids.uniform_times_to(c.steps, c.last_step)
    elif process.name == "flow":
        grid = grids.uniform_times(c.steps)
    elif c.sampler == "ddim":
        grid = grids.strided_timesteps(config.process.num_timesteps, c.steps)
    else:
        grid = grids.rounded_timesteps(config.process.num_timesteps, c.steps)
    if c.churn < 0 or (c.churn > 0 and (c.sampler != "heun" or process.name != "edm")):
        raise UserError(
            f"config.sample.churn is {c.churn} with the sampler '{c.sampler}' and the family "
            f"'{process.name}'; only 'heun' on 'edm' churns, by 0 or more: set it to 0."
        )
    if c.sampler == "ddim":
        at_least(config, "sample.eta", 0)
        run = functools.partial(run, eta=c.eta)
    elif c.churn:
        run = functools.partial(
            run, S_churn=c.churn, S_min=c.churn_min, S_max=c.churn_max, S_noise=c.churn_noise
        )
    return grid, run


def feature_space(config: ConfigDict) -> FeatureFn:
    """The feature function that evaluation compares images in."""
    for key in ("evaluate.num", "evaluate.batch_size"):
        at_least(config, key, 1)
    return choose("evaluate.features", config.evaluate.features, FEATURES)(config.evaluate)
