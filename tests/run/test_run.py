"""A run opened from Python: the same samples as the command, other devices, errors."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import cdt
from cdt.modes.sample import sample
from cdt.modes.train import train
from smoke_runs import arrays, smoke

ANOTHER_MESH = {"mesh.data": 4, "mesh.fsdp": 2, "mesh.min_shard_size": 256}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({}, id="this mesh"),
        # Trained on another mesh than the one it is opened on; more programs to compile.
        pytest.param(ANOTHER_MESH, id="another mesh", marks=pytest.mark.long),
    ],
)
def workdir(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("run")
    assert train(smoke(**request.param), str(folder)) == 0
    return folder


@pytest.mark.long  # of a run
def test_parameters_and_samples_are_the_programs(workdir):
    run = cdt.load_run(workdir)
    saved = arrays(workdir)
    assert run.step == 24 and run.model.num_classes == 10
    assert run.class_names == tuple("0123456789")
    jax.tree.map(np.testing.assert_array_equal, run.params, saved["ema"]["0.995"])
    raw = cdt.load_run(workdir, ema="raw")
    jax.tree.map(np.testing.assert_array_equal, raw.params, saved["params"])

    assert sample(smoke(), str(workdir)) == 0
    with np.load(workdir / "samples" / "step_24" / "samples.npz") as written:
        images = run.sample(len(written["arr_0"]))
        # Another mesh rounds some values differently.
        assert abs(images.astype(int) - written["arr_0"]).max() <= 1


@pytest.mark.long  # of a run
def test_settings_are_keys_of_the_config(workdir):
    run = cdt.load_run(workdir)
    # Such a short run has not learned classes.
    noise = np.random.default_rng(0).standard_normal
    run.params = jax.tree.map(lambda p: p + 0.1 * noise(p.shape, np.float32), run.params)
    plain, guided = (run.sample(4, classes=(3,), guidance=g, steps=2) for g in (1.0, 3.0))
    assert plain.shape == guided.shape == (4, 8, 8, 1) and plain.dtype == np.uint8
    assert (plain != guided).any()
    np.testing.assert_array_equal(plain, run.sample(4, classes=(3,), guidance=1.0, steps=2))
    assert run.config.sample.guidance == smoke().sample.guidance  # settings are not kept
    with pytest.raises(cdt.UserError, match="no key 'sample.guidence'; did you mean"):
        run.sample(4, guidence=2.0)
    with pytest.raises(cdt.UserError, match="config.sample.classes is"):
        run.sample(4, classes=(10,))


@pytest.mark.long  # of a run
def test_convergence_is_the_logged_one(workdir):
    run = cdt.load_run(workdir)
    found, written = run.convergence(), json.loads((workdir / "convergence.json").read_text())
    np.testing.assert_array_equal(found.steps, written["steps"])
    np.testing.assert_allclose(found.losses, written["validation_loss"])
    np.testing.assert_array_equal(found.stage_starts, written["stage_starts"])
    assert found.stage == 4 and found.stage_lengths.sum() == 24
    last = [r for r in cdt.read_history(workdir) if "validation_loss" in r][-1]
    assert found.losses[-1, 0] == last["validation_loss/cluster_01"]
    np.testing.assert_allclose(found.normalised[[0, -1], -1], [1.0, 0.0])


@pytest.mark.long  # of a run
def test_errors_of_load_run(workdir, tmp_path):
    with pytest.raises(cdt.UserError, match="has no config.json; give the workdir of a run"):
        cdt.load_run(tmp_path)
    with pytest.raises(cdt.UserError, match="config.sample.ema is '0.5'"):
        cdt.load_run(workdir, ema="0.5")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(cdt.UserError, match="config.json is damaged"):
        cdt.load_run(tmp_path)
    (tmp_path / "config.json").write_bytes((workdir / "config.json").read_bytes())
    with pytest.raises(cdt.UserError, match="There is no checkpoint in"):
        cdt.load_run(tmp_path)


def test_the_package_is_lazy():
    """Importing it imports none of the large libraries; every public name is there."""
    program = (
        "import sys, cdt; heavy = {'jax', 'tensorflow', 'torch', 'numpy', 'flax'};"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys();"
        "assert all(getattr(cdt, name) for name in cdt.__all__);"
        "assert 'jax' in sys.modules and not {'tensorflow', 'torch'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="module 'cdt' has no attribute 'nothing'"):
        _ = cdt.nothing
