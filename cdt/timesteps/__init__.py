"""Densities over the noise level u, and the timestep samplers that draw from them.

densities           uniform, logit_normal, second_moment, info_noise
timestep samplers   independent, two_phase, speed (with its loss weight speed_weight)
types               Density, TimestepSampler, Draw, Feedback
bins of info_noise  log_s_bins
"""

from cdt.timesteps.base import Density, Draw, Feedback, TimestepSampler
from cdt.timesteps.independent import independent
from cdt.timesteps.info_noise import info_noise, log_s_bins
from cdt.timesteps.logit_normal import logit_normal
from cdt.timesteps.second_moment import second_moment
from cdt.timesteps.speed import speed, speed_weight
from cdt.timesteps.two_phase import two_phase
from cdt.timesteps.uniform import uniform

__all__ = [
    "Density", "Draw", "Feedback", "TimestepSampler", "independent", "info_noise", "log_s_bins",
    "logit_normal", "second_moment", "speed", "speed_weight", "two_phase", "uniform",
]  # fmt: skip
