"""The variant of a config file: VARIANT in --config=FILE:VARIANT."""

from cdt.config.suggestions import nearest
from cdt.errors import UserError


class UnknownVariant(UserError):
    """A variant that a config file does not have."""


def check_variant(variant: str, *known: str) -> None:
    """Check that the variant of a config file is empty or one of `known`.

    Raises:
      UnknownVariant: it is neither.
    """
    if variant and variant not in known:
        raise UnknownVariant(
            f"--config asks for the variant '{variant}', which this config does not have; "
            f"{nearest(variant, known)}"
        )
