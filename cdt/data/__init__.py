"""Where images come from, and how batches are made of them.

sources                what a data set is; digits, mock data, npz files, TFDS
folder, pictures       picture files; ADM's crop
idx                    MNIST's files
prepared_format        data sets in our own form
moments                cached latents
captions, text_states  captions, and their cached states
text_encoder           encoders of `transformers`
bad_examples           what takes the place of damaged examples
pipeline               batches as a function of the step
prepare                program: writes the prepared form, with split_writer and shards
split_writer, shards   one split in worker processes; resuming
latents                program: encodes a data set once
text                   program: caches the states of captions
emoji                  program: captions of an npm package
command_line           flags of the programs without a config
"""
