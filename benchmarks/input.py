"""Throughput of the data sources, and speed and memory of cdt.data.prepare.

    python -m benchmarks.input [--case read --case prepare]

read: batches of 128 images of 64x64 in training order, with flips, on the calling thread, as the
prefetcher computes them. Median of 5 rounds of 1,024 images; the sources take turns. The images are
those of the mock source.
prepare: PNG files of 64x64 and JPEG files of 500x375 to 64x64, with one and two workers, including
the start of the processes. Peak memory of the largest process for two sizes of the data set.

Rates are per second and per CPU second; other programs on the machine affect the latter less.

Targets: memmap at least 20,000 images per CPU second; the same memory for both sizes of the data
set, except for the list of file names.
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
from cdt.data.prepare import prepare_command
from cdt.data.prepared_format import prepared

SIZE, COUNT, BATCH = 64, 2048, 128


def write_folder(root: Path, images: np.ndarray, count: int, ending: str) -> Path:
    """Write `count` files in 10 class folders; repeated images are symbolic links."""
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
        assert prepare_command(["prepare", *arguments, f"--form={form}"]) == 0
    cases = {
        "npz (in memory)": sources.npz(root / "a.npz", "train"),
        "prepared, memmap": prepared(root / "memmap" / "train"),
        "prepared, array_record": prepared(root / "array_record" / "train"),
        "tfds (PNG in ArrayRecord)": as_tfds(images, root / "tfds"),
        "folder of 64x64 PNG files": folder(pictures / "train", SIZE, 3),
    }
    kinds = dict(seed=0, batch_size=BATCH, flip=True)
    batches = {name: make_batch(source, **kinds) for name, source in cases.items()}
    rates = {name: [] for name in cases}
    for start in range(0, 48, 8):
        for name, batch in batches.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            for step in range(start, start + 8):
                batch(step)
            seconds = time.perf_counter() - began
            cpu_seconds = time.process_time() - began_cpu
            rates[name].append((8 * BATCH / seconds, 8 * BATCH / cpu_seconds))
    for name, found in rates.items():
        rate, cpu_rate = np.median(found[1:], axis=0)  # the first round opens files
        print(f"{name}: {rate:,.0f} images/s, {cpu_rate:,.0f} per CPU second")


def prepare(root: Path) -> None:
    rng = np.random.default_rng(0)
    small = sources.mock("train", SIZE, 3, 10, 256).images(np.arange(256))
    # Like photographs: smooth, with some grain.
    coarse = rng.integers(0, 256, (32, 24, 32, 3)).astype(np.uint8)
    large = np.stack(
        [
            np.asarray(Image.fromarray(x).resize((500, 375), Image.Resampling.BICUBIC))
            for x in coarse
        ]
    )
    large = np.clip(large + rng.normal(0, 6, large.shape), 0, 255).astype(np.uint8)
    for name, images, ending, count, workers in [
        ("64x64 PNG", small, ".png", 2000, 1),
        ("64x64 PNG", small, ".png", 2000, 2),
        ("64x64 PNG", small, ".png", 8000, 2),
        ("500x375 JPEG", large, ".jpg", 500, 1),
        ("500x375 JPEG", large, ".jpg", 500, 2),
    ]:
        pictures = write_folder(root / f"{count}-{workers}{ending}", images, count, ending)
        command = [
            sys.executable, "-m", "cdt.data.prepare", "--source=folder", f"--path={pictures}",
            f"--out={root / f'out-{count}-{workers}'}{ending}", f"--image_size={SIZE}",
            "--channels=3", f"--workers={workers}", "--shards=8",
        ]  # fmt: skip
        seconds, cpu_seconds, peak = watched(command)
        print(
            f"{count} {name} files, {workers} workers: {count / seconds:,.0f} images/s, "
            f"{count / cpu_seconds:,.0f} per CPU second, largest process {peak:.0f} MiB",
            flush=True,
        )


def watched(command: list[str]) -> tuple[float, float, float]:
    """Return (seconds, CPU seconds of all processes, peak MiB of the largest process)."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while True:
        for pid in [
            process.pid,
            *_read(f"/proc/{process.pid}/task/{process.pid}/children").split(),
        ]:
            # Not ru_maxrss: it includes the process before `exec`, a copy of this one.
            _, _, high = _read(f"/proc/{pid}/status").partition("VmHWM:")
            peak = max(peak, int(high.split()[0]) if high else 0)
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            assert status == 0
            return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, peak / 1024
        time.sleep(0.05)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # the process has ended
        return ""


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
