"""Weights in and out: names of other programs, and the files that they read and write.

`import_dit`, `export_diffusers` and `export_safetensors` are programs of their own, like
`cdt.main`.
"""
