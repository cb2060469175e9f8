"""Data: images a second of each source at 64x64, and the speed and memory of preparing.

    python -m benchmarks.data_sources [--case read --case prepare]

read: batches of 128 in training order, flips included, on the calling thread, as training's
prefetcher makes them; median of 5 rounds of 2,048 images, the sources taking turns. The pictures
are those of the mock source: gratings with some noise.
prepare: 64x64 PNG files and 500x375 JPEG files to 64x64, by one and two workers, start of the
processes included; the peak memory of the largest process at two sizes of the data set.

Targets: memmap at least 20,000 images/s; memory of preparing the same at both sizes, but for the
list of the files' names.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cdt.data import sources
from cdt.data.folder import folder
from cdt.data.pipeline import make_batch
from cdt.data.prepare import run
from cdt.data.prepared import prepared

SIZE, COUNT, BATCH = 64, 4096, 128


def write_folder(root: Path, images: np.ndarray, count: int, ending: str) -> Path:
    """`count` names in 10 class folders; an image used twice is linked, not copied."""
    for i in range(count):
        path = root / "train" / str(i % 10) / f"{i:06d}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < len(images):
            Image.fromarray(images[i]).save(path)
        else:
            first = i % len(images)
            path.symlink_to(root / "train" / str(first % 10) / f"{first:06d}{ending}")
    return root


def as_tfds(images: np.ndarray, root: Path) -> sources.Source:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()

    class Pictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=images.shape[1:]),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, image in enumerate(images):
                yield i, {"image": image, "label": i % 10}

    Pictures(data_dir=root, file_format="array_record").download_and_prepare()
    return sources.tfds("pictures", "train", root)


def read(root: Path) -> None:
    mock = sources.mock("train", SIZE, 3, 10, COUNT)
    images = mock.images(np.arange(COUNT))
    np.savez(root / "a.npz", train_images=images, train_labels=mock.labels)
    pictures = write_folder(root / "png", images, COUNT, ".png")
    for form in ("memmap", "array_record"):
        arguments = ["--source=npz", f"--path={root / 'a.npz'}", f"--out={root / form}"]
        assert run(["prepare", *arguments, f"--form={form}"]) == 0
    cases = {
        "npz (in memory)": sources.npz(root / "a.npz", "train"),
        "prepared, memmap": prepared(root / "memmap" / "train"),
        "prepared, array_record": prepared(root / "array_record" / "train"),
        "tfds (PNG in ArrayRecord)": as_tfds(images, root / "tfds"),
        "folder of 64x64 PNG files": folder(pictures / "train", SIZE, 3),
    }
    kinds = dict(seed=0, batch_size=BATCH, process_index=0, process_count=1, flip=True)
    batches = {name: make_batch(source, **kinds) for name, source in cases.items()}
    rates = {name: [] for name in cases}
    for start in range(0, 96, 16):
        for name, batch in batches.items():
            began = time.perf_counter()
            for step in range(start, start + 16):
                batch(step)
            rates[name].append(16 * BATCH / (time.perf_counter() - began))
    for name, found in rates.items():
        print(f"{name}: {np.median(found[1:]):,.0f} images/s")  # the first round opens files


def prepare(root: Path) -> None:
    rng = np.random.default_rng(0)
    small = sources.mock("train", SIZE, 3, 10, 256).images(np.arange(256))
    # As photographs are: smooth, with some grain.
    coarse = rng.integers(0, 256, (32, 24, 32, 3)).astype(np.uint8)
    large = np.stack(
        [
            np.asarray(Image.fromarray(x).resize((500, 375), Image.Resampling.BICUBIC))
            for x in coarse
        ]
    )
    large = np.clip(large + rng.normal(0, 6, large.shape), 0, 255).astype(np.uint8)
    for name, images, ending, counts in [
        ("64x64 PNG", small, ".png", (2000, 8000)),
        ("500x375 JPEG", large, ".jpg", (1000,)),
    ]:
        for count in counts:
            pictures = write_folder(root / f"{count}{ending}", images, count, ending)
            for workers in (1, 2):
                command = [
                    sys.executable, "-m", "cdt.data.prepare", "--source=folder",
                    f"--path={pictures}", f"--out={root / f'out-{count}-{workers}'}{ending}",
                    f"--image_size={SIZE}", "--channels=3", f"--workers={workers}", "--shards=8",
                ]  # fmt: skip
                began = time.perf_counter()
                process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                # The usage covers the process and the workers that it has waited for.
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - began
                assert status == 0
                print(
                    f"{count} {name} files, {workers} workers: {count / seconds:,.0f} images/s, "
                    f"largest process {usage.ru_maxrss / 1024:.0f} MiB",
                    flush=True,
                )


CASES = {"read": read, "prepare": prepare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES], action="append", help="default: all")
    args = parser.parse_args()
    for name in args.case or CASES:
        with tempfile.TemporaryDirectory() as root:
            CASES[name](Path(root))


if __name__ == "__main__":
    main()
