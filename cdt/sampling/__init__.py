"""Samplers: from noise at levels[0] to data, each one function under `lax.scan`.

Each takes `(denoise, process, levels, x, noise, **options)` and returns x0 [B, ...]: `denoise` is
`make_denoiser`'s, `levels` a grid of `cdt.sampling.grids`, `x` from `initial_noise`, `noise` from
`keyed_noise`. An example depends on its own key alone, not on its batch.
"""
