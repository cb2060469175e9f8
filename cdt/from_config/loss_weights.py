"""Config -> the factor of the squared error at each noise level, or a learned one."""

from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from cdt.diffusion import loss_weights
from cdt.diffusion.loss_weights import Weight
from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process
from cdt.diffusion.uncertainty import Uncertainty, uncertainty_weight
from cdt.from_config.choices import choose, options


class Noise(NamedTuple):
    """What a loss weight is built from."""

    process: Process
    prediction: Prediction


# Each is called as (noise, **options), with the options of `config.loss.<name>`.
WEIGHTS: dict[str, Callable[..., Weight | Uncertainty]] = {
    "none": lambda noise: loss_weights.no_weight(),
    "min_snr": lambda noise, gamma: loss_weights.min_snr_weight(
        noise.process, noise.prediction, gamma
    ),
    "p2": lambda noise, k, gamma: loss_weights.p2_weight(noise.process, noise.prediction, k, gamma),
    "uncertainty": lambda noise: uncertainty_weight(noise.process),
}


def chosen_weight(
    config: ConfigDict, process: Process, prediction: Prediction
) -> Weight | Uncertainty:
    """What `config.loss.weight` names."""
    name = config.loss.weight
    build = choose("loss.weight", name, WEIGHTS)
    return build(Noise(process, prediction), **options(config, "loss", name))
