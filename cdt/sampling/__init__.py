"""Samplers: from noise at levels[0] to data, each one function under `lax.scan`.

Each takes `(denoise, process, levels, x, keys, **options)` and returns x0 [B, ...]: `denoise` is
`make_denoiser`'s, `levels` a grid of `cdt.sampling.grids`, `x` from `initial_noise`, `keys` one
PRNG key an example. An example depends on its own key and noise alone, not on its batch.
"""
