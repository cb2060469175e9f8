"""Import and export of weights in the formats of other programs.

import_dit, import_edm  programs: import weights
imported                common part of the imports
export_safetensors      program: export the weights of any run as one file
export_diffusers        program: export a folder for DiTPipeline
export_stablehlo        program: export a denoiser that runs without cdt
card                    the model card
dit_names, edm_names    layer names of DiT, SiT, diffusers and EDM
autoencoder_files       config and weights of an AutoencoderKL
state_dict              arrays of a PyTorch state dict as Flax parameters
sit                     the direction of time of SiT
diffusers_files         JSON files of a DiTPipeline
"""
