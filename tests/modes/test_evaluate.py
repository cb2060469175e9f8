"""Evaluation of given samples, and of EMAs during training."""

import json

import numpy as np
import pytest
from PIL import Image

from cdt.data.sources import digits
from cdt.errors import UserError
from cdt.evals.features import pixels
from cdt.evals.frechet import Statistics, frechet_distance
from cdt.modes import evaluate as mode
from cdt.modes import train as loop
from cdt.monitoring.writers import read_history
from cdt.run.images import Generator
from smoke_runs import smoke


def gaussian_of(features):
    return Statistics(features.mean(0), np.cov(features, rowvar=False), len(features))


def frechet(a, b):
    return frechet_distance(*(gaussian_of(pixels(x).features) for x in (a, b)))


def test_samples_in_a_file_against_the_data(tmp_path, capsys):
    held_out, train = digits("test"), digits("train")
    images = held_out.images(np.arange(297))
    np.savez(tmp_path / "samples.npz", images)
    config = smoke()
    config.evaluate.samples = str(tmp_path / "samples.npz")
    assert mode.evaluate(config, str(tmp_path / "run")) == 0
    result = json.loads((tmp_path / "run" / "evaluations" / "samples_pixels.json").read_text())
    expected = frechet(images, train.images(np.arange(1500)))
    np.testing.assert_allclose(result["frechet_train"], expected, rtol=1e-6)
    assert result["frechet_test"] < 1e-6
    assert result["precision_test"] == result["recall_test"] == 1.0
    assert abs(result["kernel_test"]) < 4 * result["kernel_standard_error_test"] + 1e-9
    assert result["nearest_train_of_samples"] == pytest.approx(result["nearest_train_of_test"])
    out = capsys.readouterr().out
    assert "hash" in out and "precision train" in out


def test_a_folder_against_a_file_of_statistics(tmp_path):
    images = digits("test").images(np.arange(60))
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / "images" / f"{i:03d}.png")
    mu, sigma = np.zeros(64), np.eye(64)
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    config = smoke()
    config.evaluate.samples = str(tmp_path / "images")
    config.evaluate.reference = str(tmp_path / "stats.npz")
    assert mode.evaluate(config, str(tmp_path)) == 0
    result = json.loads((tmp_path / "evaluations" / "samples_pixels.json").read_text())
    own = gaussian_of(pixels(images).features)
    np.testing.assert_allclose(
        result["frechet_reference"], frechet_distance(own, own._replace(mu=mu, sigma=sigma))
    )
    assert "kernel_reference" not in result  # statistics alone have no features


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("samples", "nowhere.npz", "does not exist"),
        ("reference", "nowhere.npz", "does not exist"),
        ("reference", "other_space.npz", "statistics of one feature space"),
    ],
)
def test_wrong_samples_and_references(tmp_path, monkeypatch, key, value, words):
    monkeypatch.chdir(tmp_path)
    np.savez("samples.npz", np.zeros((30, 8, 8, 1), np.uint8))
    np.savez("other_space.npz", mu=np.zeros(3), sigma=np.eye(3))
    config = smoke()
    config.evaluate.samples = "samples.npz"
    config.evaluate[key] = value
    monkeypatch.setattr(Generator, "images", None)  # the error comes before sampling
    with pytest.raises(UserError, match=words):
        mode.evaluate(config, str(tmp_path))


@pytest.mark.long  # a run, its samples and an evaluation of each EMA
def test_several_emas_are_evaluated_during_training(tmp_path):
    config = smoke()
    config.evaluate.every = "12 steps"
    config.evaluate.emas = ("0.995", "raw")
    assert loop.train(config, str(tmp_path)) == 0
    found = [
        {k: v for k, v in record.items() if k.startswith("evaluation_pixels/")}
        | {"step": record["step"]}
        for record in read_history(tmp_path)
        if "evaluation_pixels/frechet/ema_raw" in record
    ]
    assert [record["step"] for record in found] == [12, 24]
    raw, averaged = (found[-1][f"evaluation_pixels/frechet/ema_{n}"] for n in ("raw", "0.995"))
    assert 0 < raw < 100 and raw != averaged
    # The same as evaluating the checkpoint afterwards.
    config.sample.ema = "raw"
    assert mode.evaluate(config, str(tmp_path)) == 0
    after = json.loads((tmp_path / "evaluations" / "step_24_pixels.json").read_text())
    np.testing.assert_allclose(after["frechet_train"], raw, rtol=1e-5)
    assert "evaluation_pixels/frechet_train/ema_raw" in read_history(tmp_path)[-1]
