"""Config -> the loss weight: a fixed or learned factor of the loss at each noise level."""

from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from cdt.diffusion import loss_weights
from cdt.diffusion.loss_weights import Weight
from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process
from cdt.diffusion.uncertainty import Uncertainty, uncertainty_weight
from cdt.from_config.choices import choose, named, options


class LossSpec(NamedTuple):
    """The argument of the builder of a loss weight."""

    process: Process
    prediction: Prediction


# Each is called as (spec, **options), with the options of `config.loss.<name>`.
WEIGHTS: dict[str, Callable[..., Weight | Uncertainty]] = {
    "none": lambda spec: loss_weights.no_weight(),
    "min_snr": lambda spec, gamma: loss_weights.min_snr_weight(
        spec.process, spec.prediction, gamma
    ),
    "p2": lambda spec, k, gamma: loss_weights.p2_weight(spec.process, spec.prediction, k, gamma),
    "uncertainty": lambda spec: uncertainty_weight(spec.process),
}


def chosen_weight(
    config: ConfigDict, process: Process, prediction: Prediction
) -> Weight | Uncertainty:
    """Return the weight that `config.loss.weight` names."""
    name = config.loss.weight
    build = choose("loss.weight", name, WEIGHTS)
    with named(f"loss.{name}"):
        return build(LossSpec(process, prediction), **options(config, "loss", name))
