"""Cost of splitting a train step over devices and processes of one machine.

    python -m benchmarks.scaling [--out FILE.json]

The devices are simulated, and all devices and processes share the cores of the machine, so nothing
gets faster. The time of a step divided by that on one device is the cost of the split on the host.
The network is that of the digits, with a global batch of 64: data-parallel, and with parameters
split over all devices.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile

from benchmarks import records

DEVICES = (1, 2, 4, 8)
PROCESSES = (1, 2, 4)
STEPS = 40


def on_devices(n: int, fsdp: int) -> dict:
    """Return {"seconds": time of a step, "sent": bytes by kind} with n simulated devices."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={n}"
    program = f"from benchmarks.scaling import measure; measure({n // fsdp}, {fsdp})"
    output = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, check=True, text=True,
    ).stdout  # fmt: skip
    return json.loads(output.splitlines()[-1])


def measure(data: int, fsdp: int) -> None:
    """Print the result of `on_devices` as JSON, for the devices of this process."""
    import jax
    import numpy as np

    from benchmarks.cases import case_config, first_batch
    from benchmarks.collectives import collectives, total_bytes
    from benchmarks.train_step import seconds_a_step
    from cdt import from_config
    from cdt.devices import sharding
    from cdt.devices.compilation import compile_program

    config = case_config("digits", **{"mesh.data": data, "mesh.fsdp": fsdp})
    mesh = from_config.mesh(config)
    batch, size = first_batch(config)
    model = from_config.model(config, mesh)
    parts = from_config.training(
        config, model, mesh.size, size, from_config.open_all_at(config, size)
    )
    shapes = jax.eval_shape(parts.init, jax.random.key(0))
    where = sharding.state_sharding(mesh, shapes, min_size=2**10)
    state = jax.jit(parts.init, out_shardings=where)(jax.random.key(0))
    batch = sharding.global_batch(mesh, batch, config.train.batch_size)
    out = (where, sharding.replicated(mesh))
    step = compile_program(
        jax.jit(parts.step, donate_argnums=0, out_shardings=out).lower(state, batch)
    )

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        # XLA's collectives on one CPU deadlock if too many programs wait for its threads.
        return jax.block_until_ready(metrics["loss"])

    seconds = float(np.median(seconds_a_step(run, jax.block_until_ready, STEPS // 4)))
    print(json.dumps({"seconds": seconds, "sent": total_bytes(collectives(step.as_text()))}))


def in_processes(n: int) -> float:
    """Return images per second of a run of n processes with one device each (median of its log)."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        command = [
            sys.executable, "-m", "cdt.main", "--config=configs/digits.py", f"--workdir={folder}",
            f"--config.train.duration={STEPS}", "--config.log.every=5", "--config.optim.warmup=5",
            f"--config.validation.every={STEPS}", f"--config.sample.every={STEPS}",
            "--config.sample.num=8", "--config.sample.steps=2", "--config.log.tensorboard=False",
        ]  # fmt: skip
        if n > 1:
            command += [f"--coordinator={address}", f"--num_processes={n}"]
        started = [
            subprocess.Popen(
                command + ([f"--process_id={k}"] if n > 1 else []),
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for k in range(n)
        ]  # fmt: skip
        codes = [process.wait() for process in started]
        if any(codes):
            raise RuntimeError(f"{n} processes ended with {codes}")
        with open(f"{folder}/metrics.jsonl") as file:
            lines = [json.loads(line) for line in file]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return statistics.median(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="JSON file to append the record to")
    args = parser.parse_args()
    devices, alone = {}, None
    for n in DEVICES:
        for fsdp in sorted({1, n}):
            found = on_devices(n, fsdp)
            alone = alone or found["seconds"]
            mesh = f"{n // fsdp} x {fsdp}"
            devices[mesh] = found
            print(
                f"data x fsdp = {mesh}: {1e3 * found['seconds']:.1f} ms a step, "
                f"{found['seconds'] / alone:.2f} times that of one device; sends {found['sent']}",
                flush=True,
            )
    rates = {n: in_processes(n) for n in PROCESSES}
    for n, rate in rates.items():
        print(f"{n} process(es): {rate:.0f} images/s, {rates[1] / rate:.2f} times the time of one")
    records.append(args.out, "scaling", {"devices": devices, "images_per_second": rates})


if __name__ == "__main__":
    main()
