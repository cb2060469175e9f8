"""The digits config with the curriculum and with a uniform density, for several seeds.

    python -m benchmarks.digits --workdir=runs/benchmark-digits --seeds 0 1 2

Trains and evaluates both arms for every seed; the same command resumes. Each run prints one line:
pixel Frechet distances to the 1,500 training and the 297 held-out images (2,000 samples, pixels in
[-1, 1]), nearest-neighbour distances, the last stage, and the wall-clock seconds of training. Other
arguments (--config...=...) are passed to every run.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs/benchmark-digits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=["curriculum", "uniform"])
    options, overrides = parser.parse_known_args()
    for seed in options.seeds:
        for arm in options.arms:
            workdir = options.workdir / f"{arm}-{seed}"
            command = [
                sys.executable, "-m", "cdt.main", "--config=configs/digits.py",
                f"--workdir={workdir}", f"--config.seed={seed}",
                f"--config.curriculum.enabled={arm == 'curriculum'}",
                *overrides,
            ]  # fmt: skip
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - began
            subprocess.run([*command, "--mode=evaluate"], check=True, capture_output=True)
            newest = max((workdir / "evaluations").iterdir(), key=lambda p: p.stat().st_mtime)
            result = json.loads(newest.read_text())
            history = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
            stage = max((int(r["stage"]) for r in history if "stage" in r), default=None)
            print(
                f"{arm} seed {seed}: Frechet train {result['frechet_train']:.3f}, test "
                f"{result['frechet_test']:.3f}, nearest train image of samples "
                f"{result['nearest_train_of_samples']:.3f} and of held-out images "
                f"{result['nearest_train_of_test']:.3f}, last stage {stage}, {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
