"""Data sets, batches, and the programs that prepare data sets.

sources                the type Source; digits, mock data, npz files, TFDS
folder, pictures       image files; center crop as in ADM
idx                    the file format of MNIST
prepared_format        the format that `prepare` writes
moments                cached latents
captions, text_states  captions, and the cached states of a text encoder
text_encoder           text encoders of `transformers`
bad_examples           replacement of damaged examples
pipeline               batches as a pure function of the step
prepare                program: convert a data set to the prepared format
split_writer, shards   writing of one split in worker processes, resumable
latents                program: encode a data set with an autoencoder
text                   program: encode captions with a text encoder
emoji                  program: write captions for an npm package of emoji
command_line           flags of the programs that take no config
"""
