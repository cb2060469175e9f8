"""Encodes a data set once, so that runs on latents need no encoder.

    python -m cdt.data.latents --config=CONFIG --workdir=DIR [--config.latents.weights=FILE ...]

CONFIG describes the images: its `data` section names them, its `latents` section the autoencoder
and the scaling, with which the range of its input goes. The training split goes to DIR/train, with
its mirror images where `data.flip` is set, the held-out one to DIR/test. Images are taken as they
are: nothing is resized. A run then reads them with `data.name = "latents"`, `data.path = DIR` and
the same `latents` section.

All devices of the machine take part. Running the same command again goes on where it was stopped.
Exit codes are those of `cdt.main`.
"""

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
    """Write the latents of both splits; return the exit code.

    Args:
      config: see above.
      workdir: a local folder, which holds nothing else or what a run of this wrote before.
      block_size: images that are lost by a kill at most.

    Raises:
      UserError: the config, the images or the weights do not fit each other, or the folder holds
        something else.
    """
    if config.data.name == "latents":
        raise UserError("config.data.name is 'latents'; give the config of the images themselves.")
    with user_errors():
        sources = dict(zip(("train", "test"), from_config.data(config), strict=True))
        sha256, scaling = from_config.autoencoder_sha256(config), from_config.scaling_record(config)
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
                print(f"{folder}: finished already, {manifest.count} images")
                continue
            done = len(manifest.checksums) * manifest.block_size
            if done:
                print(f"{folder}: going on after {done} of {manifest.count} images")
            with closing(Progress(manifest.count, done, unit="image")) as progress:
                for done in moments.write(folder, manifest, sources[split], encode):
                    progress.update(done)
                    if stop.requested and done < manifest.count:
                        print("stopped by a signal; run the same command to go on")
                        return EXIT_STOPPED
            print(f"{folder}: {manifest.count} images encoded")
    return EXIT_FINISHED


if __name__ == "__main__":
    from cdt.main import run_command_line

    sys.exit(run_command_line(sys.argv, encode_data_set))
