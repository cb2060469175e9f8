"""Weights in and out: names of other programs, and the files that they read and write.

import_dit, import_edm  programs: take over weights
imported                what they share
export_safetensors      program: the weights of any run as one file
export_diffusers        program: a folder for DiTPipeline
export_stablehlo        program: the denoiser without cdt
card                    the model card
dit_names, edm_names    layers as DiT's authors, diffusers and EDM call them
autoencoder_files       config and weights of an AutoencoderKL
state_dict              arrays of PyTorch, taken by name
sit                     the other direction of time
diffusers_files         JSON files of a DiTPipeline
"""
