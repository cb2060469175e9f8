"""Seconds from the start of the process to the end of the first training step on the digits.

    python -m benchmarks.startup

Cold: with an empty compilation cache. Warm: with the cache that the cold start filled. The first
step is detected by its progress line. Targets on two CPU cores: <= 20 s cold, <= 12 s warm.
"""

import argparse
import subprocess
import sys
import tempfile
import time


def seconds_to_first_step(cache: str, workdir: str) -> float:
    began = time.perf_counter()
    command = [
        sys.executable, "-m", "cdt.main", "--config=configs/digits.py", f"--workdir={workdir}",
        f"--config.compilation_cache={cache}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        for line in run.stderr:
            if line.startswith("step 1/"):
                elapsed = time.perf_counter() - began
                run.kill()
                return elapsed
    raise SystemExit(f"the run ended before its first step, with code {run.returncode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    for i in range(parser.parse_args().repeat):
        with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as runs:
            cold = seconds_to_first_step(cache, f"{runs}/cold")
            warm = seconds_to_first_step(cache, f"{runs}/warm")
        print(f"{i + 1}: cold {cold:.1f} s, warm {warm:.1f} s")


if __name__ == "__main__":
    main()
