"""The variants of every config file: `--config=configs/NAME.py:smoke` and `:runlocal`."""

from ml_collections import ConfigDict

from cdt.config import check_variant

COMMON = ("smoke", "runlocal")


def chosen(variant: str, *own: str) -> tuple[str, ...]:
    """Return the names in a variant such as "a,b" of `--config=FILE:a,b`.

    Args:
      variant: names, separated by commas.
      own: names of the config file, in addition to the common ones.

    Raises:
      UserError: a name is neither common nor of the file.
    """
    names = tuple(name for name in variant.split(",") if name)
    for name in names:
        check_variant(name, *own, *COMMON)
    return names


def resized(config: ConfigDict, names: tuple[str, ...]) -> ConfigDict:
    """Return the config, changed if `smoke` or `runlocal` is among the names."""
    if "smoke" in names:
        _smoke(config)
    elif "runlocal" in names:
        _runlocal(config)
    return config


def _smoke(config: ConfigDict) -> None:
    """A run of seconds: a tiny network of the same kind on mock data of the same form.

    Images have 16 pixels; the data set `digits` stays, as it is small.
    """
    if config.data.name != "digits":
        config.data.name, config.data.image_size = "mock", 16
    config.model.size = ""
    config.model.patch_size = config.data.image_size // 4
    config.model.hidden_size, config.model.depth, config.model.num_heads = 32, 2, 4
    config.model.channels, config.model.channel_mult, config.model.num_blocks = 32, (1, 2), 1
    config.model.attention_resolutions = (config.data.image_size // 2,)
    config.model.num_classes = min(config.model.num_classes, 10)
    config.model.dtype = "float32"
    config.curriculum.num_clusters = 4
    config.train.duration = "24 steps"
    config.train.batch_size = 32
    config.train.accumulate = 1
    config.optim.warmup = "4 steps"
    config.validation.every = "12 steps"
    config.validation.images = 16
    config.log.every = "6 steps"
    config.log.tensorboard = False
    config.checkpoint.every = "12 steps"
    config.sample.every = "12 steps"
    config.sample.steps = 4
    config.sample.num = 20
    config.evaluate.every = "0 steps"
    config.evaluate.num = 100
    config.evaluate.features = "pixels"
    config.evaluate.reference = ""
    config.difficulty.duration = "12 steps"
    config.difficulty.validations = 4
    config.difficulty.seeds = 1
    config.difficulty.num_pairs = 10
    config.difficulty.num_draws = 50


def _runlocal(config: ConfigDict) -> None:
    """A few small steps with the real data and network, to test them on one device."""
    config.train.duration = "50 steps"
    config.train.batch_size = 8
    config.train.accumulate = 1
    config.validation.every = "25 steps"
    config.validation.images = 8
    config.log.every = "5 steps"
    config.checkpoint.every = "25 steps"
    config.sample.every = "50 steps"
    config.sample.steps = min(config.sample.steps, 20)
    config.sample.num = config.sample.batch_size = 8
    config.evaluate.every = "0 steps"
    config.evaluate.num = 64
