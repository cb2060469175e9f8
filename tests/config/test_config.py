import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdt import config as schema
from cdt.config import check, default_config, duration
from cdt.errors import UserError


def test_defaults_satisfy_their_own_schema():
    schema.check_keys(default_config())


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("optim.lrr", "optim.lr"),
        ("optm.lr", "optim.lr"),
        ("curiculum.patience.steps", "curriculum.patience.steps"),
        ("sead", "seed"),
        ("timesteps.num_cluster", "curriculum.num_clusters"),
    ],
)
def test_unknown_key_suggests_the_nearest(key, suggestion):
    assert f"'{suggestion}'" in str(schema.unknown_key(key))


def test_unknown_key_without_a_near_one_lists_the_section():
    assert "optim.weight_decay" in str(schema.unknown_key("optim.zzzzzzzzz"))


def test_keys_are_checked_both_ways():
    config = default_config()
    config.optim.momentum = 0.9
    with pytest.raises(UserError, match=r"no key 'optim.momentum'"):
        schema.check_keys(config)
    config = default_config()
    del config.optim.lr
    with pytest.raises(UserError, match=r"lacks the key 'optim.lr'"):
        schema.check_keys(config)


@pytest.mark.parametrize("value", ["fast", None, (1.0,)])
def test_values_of_another_type(value):
    config = default_config()
    with config.ignore_type():
        config.optim.lr = value
    with pytest.raises(UserError, match=r"config.optim.lr is .* it must be a float"):
        schema.check_keys(config)


@pytest.mark.parametrize(
    "key, value",
    [("sample.classes", (1.5,)), ("evaluate.emas", (None,)), ("ema.decays", (0.9, True))],
)
def test_elements_of_another_type(key, value):
    config = default_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"config.{key} holds .*; its elements must be of type"):
        schema.check_keys(config)


@pytest.mark.parametrize(
    "key, value",
    [("optim.lr", np.nan), ("process.p_mean", -np.inf), ("ema.decays", (0.9, np.nan))],
)
def test_numbers_are_finite(key, value):
    config = default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"config.{key} (is|holds) -?(nan|inf); give .*finite"):
        schema.check_keys(config)
    config = default_config()
    config.sample.heun.S_max = np.inf
    schema.check_keys(config)


def test_every_tuple_has_a_type_for_its_elements():
    defaults = schema.flatten(default_config())
    assert check._ELEMENTS.keys() == {k for k, v in defaults.items() if isinstance(v, tuple)}


def test_an_int_is_a_float_and_a_list_a_tuple():
    config = default_config()
    with config.ignore_type():
        config.optim.lr = 1
        config.curriculum.edges = [0, 0.5, 1]
    schema.check_keys(config)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("2000", 2000), ("2000 steps", 2000), ("2_000 steps", 2000), ("1000 examples", 8),
     ("1024 examples", 8), ("3 epochs", 36), ("0.5 epochs", 6), ("0", 0), ("1e3 steps", 1000)],
)  # fmt: skip
def test_durations(text, steps):
    assert duration(text, "train.duration", batch_size=128, num_examples=1500) == steps


@pytest.mark.parametrize("text", ["", "many", "3 hours", "-1 steps", "nan", "1e12", "3steps"])
def test_wrong_durations(text):
    with pytest.raises(UserError, match="must be a duration such as"):
        duration(text, "train.duration", 128, 1500)


@given(st.text(max_size=20))
def test_any_duration_is_steps_or_one_sentence(text):
    try:
        assert duration(text, "train.duration", 128, 1500) >= 0
    except UserError as error:
        assert str(error).startswith("config.train.duration is ") and "\n" not in str(error)


_VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.lists(st.floats(), max_size=3) | st.tuples(st.integers())
)  # fmt: skip


@given(key=st.sampled_from(sorted(schema.flatten(default_config()))), value=_VALUES)
def test_any_value_is_of_the_right_type_or_one_sentence(key, value):
    config = default_config()
    default = schema.flatten(config)[key]
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    value = schema.flatten(config)[key]  # ml_collections makes a float of a bool, where one was
    accepts = {float: (float, int), tuple: (tuple, list)}.get(type(default), (type(default),))
    fits = isinstance(value, accepts) and isinstance(value, bool) == isinstance(default, bool)
    if fits and isinstance(default, tuple):
        kinds = {float: (float, int)}.get(schema._ELEMENTS[key], schema._ELEMENTS[key])
        fits = all(isinstance(element, kinds) for element in value)
    numbers = value if isinstance(value, (tuple, list)) else (value,)
    if fits and key != "sample.heun.S_max":
        fits = all(np.isfinite(x) for x in numbers if isinstance(x, float))
    try:
        schema.check_keys(config)
    except UserError as error:
        assert not fits
        assert str(error).startswith(f"config.{key} ") and "\n" not in str(error)
    else:
        assert fits
