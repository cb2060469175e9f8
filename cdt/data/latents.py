"""Encode a data set to latents once, so that training needs no encoder.

Usage:
  python -m cdt.data.latents --config=FILE[:VARIANT] --workdir=DIR
      [--config.latents.weights=FILE] [--config.KEY=VALUE ...]

Flags:
  --config=FILE         config of the images: its section `data` names them, its
                        section `latents` the autoencoder and the scaling
  --workdir=DIR         local folder for the latents, DIR/train and DIR/test
  --config.KEY=VALUE    change a config key; `python -m cdt.main --help=latents`
                        lists those of the autoencoder

Example:
  python -m cdt.data.latents --config=configs/ffhq256_latent.py:images \\
      --workdir=data/ffhq256_latent

The images are not resized. With data.flip the mirror images of the training
split are encoded too. A run reads the latents with data.name = "latents",
data.path = DIR and the same section `latents`.

All devices of the machine take part. The same command again continues a
stopped one. The exit codes are those of `python -m cdt.main --help`.
"""

from cdt import usage

if __name__ == "__main__":  # answered before the imports below, which load JAX
    usage.answer_and_exit(__doc__)

import sys
from contextlib import closing

from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.data import moments
from cdt.devices.signals import StopRequest
from cdt.errors import EXIT_FINISHED, EXIT_STOPPED, UserError, user_errors
from cdt.monitoring.progress import Progress


def encode_data_set(config: ConfigDict, workdir: epath.PathLike, *, block_size: int = 256) -> int:
    """Write the latents of both splits, and return the exit code.

    Args:
      config: of the images, see above.
      workdir: local folder; new, empty, or with latents of the same config.
      block_size: images in a block; an interruption loses at most one block.

    Raises:
      UserError: the config, the images and the weights do not match, or the folder has other files.
    """
    if config.data.name == "latents":
        raise UserError("config.data.name is 'latents'; give the config of the images.")
    with user_errors():
        sha256, scaling = from_config.autoencoder_sha256(config), from_config.scaling_record(config)
        sources = dict(zip(("train", "test"), from_config.data(config), strict=True))
        manifests = {}
        for split, source in sources.items():
            planned = moments.plan(
                source,
                from_config.latent_shape(config, source.shape),
                sha256,
                scaling,
                mirror=config.data.flip and split == "train",
                block_size=block_size,
            )
            manifests[split] = moments.resumed(epath.Path(workdir) / split, planned)
        encode = from_config.encoder(config)

    with StopRequest() as stop:
        for split, manifest in manifests.items():
            folder = epath.Path(workdir) / split
            if manifest.complete:
                print(f"{folder}: already finished, {manifest.count} images")
                continue
            done = len(manifest.checksums) * manifest.block_size
            if done:
                print(f"{folder}: continuing after {done} of {manifest.count} images")
            with closing(Progress(manifest.count, done, unit="image")) as progress:
                for done in moments.write(folder, manifest, sources[split], encode):
                    progress.update(done)
                    if stop.requested and done < manifest.count:
                        print("stopped by a signal; run the same command again to continue")
                        return EXIT_STOPPED
            print(f"{folder}: {manifest.count} images encoded")
    return EXIT_FINISHED


if __name__ == "__main__":
    from cdt.main import run_command_line

    sys.exit(run_command_line(sys.argv, encode_data_set))
