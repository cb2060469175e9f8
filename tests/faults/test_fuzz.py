"""Two thousand mutations of configs, manifests and metadata of checkpoints, in one process.

Each one succeeds or gives a one-sentence error, never another exception, and changes no file.
"""

import hashlib
import json
import math
import shutil

import jax
import numpy as np
import pytest

from cdt import config as schema
from cdt import from_config
from cdt.errors import UserError, user_errors
from cdt.workdir.checkpoint import Checkpointer
from checkpoint_items import META, abstract, assert_same, make_items, save
from smoke_runs import smoke

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)

# seeds of the mutations, in `make test` and in `make test-faults`
FAST = 10
ALL = {"config": 1000, "manifest": 500, "metadata": 500}


def seeds(name):
    slow = pytest.param(range(FAST, ALL[name]), marks=pytest.mark.slow, id="rest")
    return pytest.mark.parametrize("seeds", [pytest.param(range(FAST), id="first"), slow])


def one_sentence(error: UserError) -> None:
    text = str(error)
    assert len(text) > 20 and "\n" not in text and "Traceback" not in text, text


# --- Configs ----------------------------------------------------------------------------------

# Integers are small, because they set sizes: nobody asks for 10^9 channels by mistake.
_NUMBERS = (-(2**31), -1, 0, 1, 2, 3, 7, 100, 0.0, -0.5, 0.3, 1.0, 1.5, 1e9, 1e-30)
_WORDS = ("", " ", "x", "none", "adm", "ddpm", "edm", "flow", "cosine", "uniform", "0 steps", "5",
          "3 epochs", "-1 steps", "1e99 steps", "S/2", "XL", "/", "\0", "../..", "{}")  # fmt: skip


def mutated_config(seed: int):
    rng = np.random.RandomState(seed)
    config = smoke(compilation_cache="")
    flat = schema.flatten(config)
    for key in rng.choice(sorted(flat), size=rng.randint(1, 4), replace=False):
        value = _mutated(rng, flat[str(key)])
        with config.ignore_type():
            config.update_from_flattened_dict({str(key): value})
    return config


def _mutated(rng, value):
    if rng.randint(10) == 0:  # another type
        return [None, "word", 3, 2.5, True, (1, 2), [], {}][rng.randint(8)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(_NUMBERS[rng.randint(8)])
    if isinstance(value, float):
        return float([*_NUMBERS, math.nan, math.inf, -math.inf][rng.randint(len(_NUMBERS) + 3)])
    if isinstance(value, str):
        return _WORDS[rng.randint(len(_WORDS))]
    return tuple(_mutated(rng, 0.5) for _ in range(rng.randint(4)))


def build_all(config):
    """Build everything that a run builds before it compiles or writes."""
    schema.check_keys(config)
    schema.with_fitted_edges(config)
    with user_errors():
        mesh = from_config.mesh(config)
        train, test = from_config.data(config)
        model = from_config.model(config, mesh)
        open_all = from_config.open_all_at(config, train.size)
        parts = from_config.training(config, model, mesh.size, train.size, open_all)
        from_config.sampler(config, model)
        from_config.sample_condition(config, model)
        from_config.ema_name(config)
        from_config.evaluated_emas(config)
        from_config.feature_space(config)
        for key in ("train.duration", "log.every", "validation.every", "checkpoint.every"):
            from_config.steps(config, key, train.size)
        from_config.examples(config, test)
        jax.eval_shape(parts.init, jax.random.key(0))


@seeds("config")
def test_configs(seeds, capsys):
    built = 0
    for seed in seeds:
        config = mutated_config(seed)
        try:
            build_all(config)
            built += 1
        except UserError as error:
            one_sentence(error)
        except Exception as error:
            difference = {
                key: value
                for key, value in schema.flatten(config).items()
                if schema.flatten(smoke()).get(key) != value
            }
            raise AssertionError(f"seed {seed}: {difference}") from error
    assert 0 < built < len(seeds)  # some are accepted and some are refused


# --- Checkpoints ------------------------------------------------------------------------------


def mutated_bytes(rng, content: bytes) -> bytes:
    position = rng.randint(len(content) + 1)
    kind = rng.randint(6)
    if kind == 0:
        return content[:position]
    if kind == 1:
        return content[:position] + content[position + rng.randint(1, 64) :]
    if kind == 2:
        return content[:position] + rng.bytes(rng.randint(1, 64)) + content[position:]
    if kind == 3:
        return rng.bytes(len(content))
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if changed:
            changed[rng.randint(len(changed))] = rng.randint(256)
    return bytes(changed)


def mutated_json(rng, value):
    """The object with one value inside it replaced, removed or moved."""
    if isinstance(value, dict) and value and rng.randint(4):
        key = sorted(value)[rng.randint(len(value))]
        return value | {key: mutated_json(rng, value[key])}
    if isinstance(value, dict) and value and rng.randint(2):
        key = sorted(value)[rng.randint(len(value))]
        return {name: inner for name, inner in value.items() if name != key}
    return [None, -1, 2**70, "", "x" * 1000, [], {}, [[]], True, 1e300][rng.randint(10)]


def hashes(directory):
    return {
        path.relative_to(directory): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def read_checkpoint(directory, restore: bool) -> bool:
    """Read as other programs do while a run trains; return whether the newest step was intact."""
    before = hashes(directory)
    checkpoints = Checkpointer(directory, keep=3)
    try:
        meta = checkpoints.read_meta()
        assert meta is None or {k: meta[k] for k in META} == META
        if restore:
            step, items, meta = checkpoints.restore_items(abstract(make_items(0)))
            assert_same(items, make_items(step))
            return meta["step"] == step == 20
        return meta is not None and meta["step"] == 20
    except UserError as error:
        one_sentence(error)
        return False
    finally:
        checkpoints.close()
        assert hashes(directory) == before


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzz") / "checkpoints"
    save(directory, 10, 20)
    return directory


@pytest.mark.long  # hundreds of small cases
@seeds("manifest")
def test_manifests(two_steps, seeds, frozen_heap):
    """Mutate the manifest of the newest step: as JSON, with a new checksum or not, or as bytes."""
    path = two_steps / "20" / "meta" / "metadata"
    original = path.read_bytes()
    whole = 0
    try:
        for seed in seeds:
            rng = np.random.RandomState(seed)
            if seed % 2:
                path.write_bytes(mutated_bytes(rng, original))
            else:
                path.write_text(json.dumps(mutated_json(rng, json.loads(original))))
            whole += read_checkpoint(two_steps, restore=False)
    finally:
        path.write_bytes(original)
    assert whole < len(seeds) / 2


@pytest.mark.long  # hundreds of small cases
@seeds("metadata")
def test_metadata_of_the_storage(two_steps, seeds, tmp_path, frozen_heap):
    """Mutate files of Orbax and TensorStore that describe arrays, and names of steps."""
    directory = shutil.copytree(two_steps, tmp_path / "checkpoints")
    step = directory / "20"
    paths = sorted(
        path for path in step.rglob("*") if path.is_file() and path.parent.name not in ("d", "meta")
    )
    assert len(paths) > 20
    exact = 0
    for seed in seeds:
        rng = np.random.RandomState(seed)
        path = paths[rng.randint(len(paths))]
        original = path.read_bytes()
        path.write_bytes(mutated_bytes(rng, original))
        exact += read_checkpoint(directory, restore=True)
        path.write_bytes(original)
    assert 0 < exact < len(seeds)
