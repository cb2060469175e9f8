"""What the programs in `cdt.data` that need no config share: reading their flags."""

from absl import flags

from cdt.errors import UserError


def parsed(known: flags.FlagValues, argv: list[str]) -> flags.FlagValues:
    """`known` with the values of a command line.

    Raises:
      UserError: a flag is unknown or its value wrong, or something is no flag.
    """
    try:
        rest = known(argv)
    except flags.Error as error:
        raise UserError(f"{error} (--help lists the flags)") from None
    if rest[1:]:
        raise UserError(f"'{rest[1]}' is not a flag; write --name=value.")
    return known
