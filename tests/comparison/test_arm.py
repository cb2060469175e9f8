"""An arm, read from the histories of its runs."""

import numpy as np

from cdt.comparison.arm import read_arm


def history(seed, stages=()):
    """Two evaluations and two validations, with numbers that depend on the seed."""
    name = "evaluation_pixels/{}/ema_0.9"
    return [
        {"step": 0, "time": 100.0, "validation_loss": 9.0, "validation_loss/cluster_01": 8.0 + seed,
         "validation_loss/cluster_02": 10.0},
        {"step": 5, "time": 103.0, name.format("frechet"): 4.0 + seed, name.format("recall"): 0.1,
         "evaluation_pixels/frechet/ema_raw": 7.0},
        {"step": 10, "time": 106.0, "loss": 1.0}
        | {f"stage_length/stage_{i + 1:02d}": float(n) for i, n in enumerate(stages)},
        {"step": 10, "time": 107.0, "validation_loss": 2.0, "validation_loss/cluster_01": 1.0,
         "validation_loss/cluster_02": 3.0 + seed},
        {"step": 10, "time": 109.0, name.format("frechet"): 2.0 + seed, name.format("recall"): 0.5,
         "evaluation_pixels/frechet/ema_raw": 6.0},
    ]  # fmt: skip


def test_every_number_finds_its_place():
    arm = read_arm("a", [history(0, (4, 6)), history(1, (7, 3))], "evaluation_pixels", "0.9")
    assert arm.steps.tolist() == [5, 10]
    assert arm.metric.tolist() == [[4.0, 2.0], [5.0, 3.0]]
    assert arm.seconds.tolist() == [[3.0, 9.0]] * 2
    assert arm.validation_steps.tolist() == [0, 10]
    assert arm.validation.tolist() == [[[8, 10], [1, 3]], [[9, 10], [1, 4]]]
    assert arm.stage_lengths.tolist() == [[4, 6], [7, 3]]
    assert {k: v.tolist() for k, v in arm.others.items()} == {
        "recall": [0.5, 0.5], "validation_loss": [2.0, 2.0]
    }  # fmt: skip


def test_without_a_curriculum_there_are_no_stages():
    arm = read_arm("a", [history(0)], "evaluation_pixels", "raw")
    assert arm.stage_lengths is None and arm.metric.tolist() == [[7.0, 6.0]]
    assert np.array(arm.others["validation_loss"]).tolist() == [2.0]
