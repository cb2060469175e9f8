"""Durations such as "2000 steps", "500_000 examples" and "30 epochs"."""

from cdt.errors import UserError


def duration(text: str, key: str, batch_size: int, num_examples: int) -> int:
    """Return the number of steps in a duration.

    Args:
      text: "2000", "2000 steps", "1_000_000 examples" or "30 epochs"; the number may be fractional
        for epochs. Examples and epochs are rounded up to whole steps.
      key: the config key, for the message.
      batch_size: global batch.
      num_examples: size of the training set.

    Raises:
      UserError: the text is not of that form, or the number is negative.
    """
    number, _, unit = text.strip().partition(" ")
    per_unit = {"": 1.0, "steps": 1.0, "examples": 1 / batch_size,
                "epochs": num_examples / batch_size}  # fmt: skip
    try:
        amount = float(number) * per_unit[unit.strip()]
        if not 0 <= amount < 2**31:
            raise ValueError
    except (ValueError, KeyError):
        raise UserError(
            f"config.{key} is {text!r}; it must be a duration such as '2000 steps', "
            "'500_000 examples' or '30 epochs'."
        ) from None
    return int(-(-amount // 1))
