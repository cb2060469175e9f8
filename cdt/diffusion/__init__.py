"""Noise families, predictions, losses, guidance and latents. Images are [B, ..., C].

noise families    ddpm, edm, flow, Process
schedules         linear_betas, cosine_betas, linear_path, gvp_path, Path
noisy data        corrupt, noise_variances, per_example
reverse step      posterior, Posterior, reverse_mean, reverse_log_variance
predictions       eps_prediction, x0_prediction, v_prediction, velocity_prediction,
                  edm_prediction, Prediction, target, to_x0_eps, split_output
losses            make_loss, make_example_loss, discretized_gaussian_nll, Apply, Loss,
                  ExampleLoss
loss weights      no_weight, min_snr_weight, p2_weight, x0_error_weight, uncertainty_weight,
                  Uncertainty, Weight, init_uncertainty, make_log_variance, LogVariance
denoiser          make_denoiser, Denoised, Denoise, Network, ConditionalNetwork, Condition
guidance          classifier_free_guidance
pixels and x0     to_float, to_uint8, pixels_to_x0, ToX0
latents and x0    constant_scale, edm2_whitening, Scaling, scale_latents, unscale_latents,
                  posterior_sample, encoder_input, decoded_pixels
"""

from cdt.diffusion.denoiser import (
    Condition,
    ConditionalNetwork,
    Denoise,
    Denoised,
    Network,
    make_denoiser,
)
from cdt.diffusion.guidance import classifier_free_guidance
from cdt.diffusion.latent_scaling import (
    Scaling,
    constant_scale,
    decoded_pixels,
    edm2_whitening,
    encoder_input,
    posterior_sample,
    scale_latents,
    unscale_latents,
)
from cdt.diffusion.loss import (
    Apply,
    ExampleLoss,
    Loss,
    discretized_gaussian_nll,
    make_example_loss,
    make_loss,
)
from cdt.diffusion.loss_weights import (
    Weight,
    min_snr_weight,
    no_weight,
    p2_weight,
    x0_error_weight,
)
from cdt.diffusion.pixels import ToX0, pixels_to_x0, to_float, to_uint8
from cdt.diffusion.prediction import (
    Prediction,
    edm_prediction,
    eps_prediction,
    split_output,
    target,
    to_x0_eps,
    v_prediction,
    velocity_prediction,
    x0_prediction,
)
from cdt.diffusion.process import Process, corrupt, ddpm, edm, flow, noise_variances, per_example
from cdt.diffusion.reverse_step import Posterior, posterior, reverse_log_variance, reverse_mean
from cdt.diffusion.schedules import Path, cosine_betas, gvp_path, linear_betas, linear_path
from cdt.diffusion.uncertainty import (
    LogVariance,
    Uncertainty,
    init_uncertainty,
    make_log_variance,
    uncertainty_weight,
)

__all__ = [
    "Apply", "Condition", "ConditionalNetwork", "Denoise", "Denoised", "ExampleLoss", "LogVariance",
    "Loss", "Network", "Path", "Posterior", "Prediction", "Process", "Scaling", "ToX0",
    "Uncertainty", "Weight", "classifier_free_guidance", "constant_scale", "corrupt",
    "cosine_betas", "ddpm", "decoded_pixels", "discretized_gaussian_nll", "edm", "edm2_whitening",
    "edm_prediction", "encoder_input", "eps_prediction", "flow", "gvp_path", "init_uncertainty",
    "linear_betas", "linear_path", "make_denoiser", "make_example_loss", "make_log_variance",
    "make_loss", "min_snr_weight", "no_weight", "noise_variances", "p2_weight", "per_example",
    "pixels_to_x0", "posterior", "posterior_sample", "reverse_log_variance", "reverse_mean",
    "scale_latents", "split_output", "target", "to_float", "to_uint8", "to_x0_eps",
    "uncertainty_weight", "unscale_latents", "v_prediction", "velocity_prediction",
    "x0_error_weight", "x0_prediction",
]  # fmt: skip
