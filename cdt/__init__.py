"""cdt: diffusion models trained with a denoising-task-difficulty curriculum, in JAX."""

__version__ = "0.1.0"
