"""Suggestions for names that do not exist, by spelling and by meaning."""

import difflib
from collections.abc import Iterable

from cdt.config.old_keys import moved
from cdt.config.schema import default_config, flatten, has_key
from cdt.config.synonyms import key_meant
from cdt.errors import UserError

_TYPO = 0.85  # similarity of two spellings of one word


def closest(word: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return the known word that is spelled most like a word, or None if none is so similar."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=similarity)), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" if a known word is close, otherwise the list of known words."""
    close = closest(word, known)
    return f"did you mean '{close}'?" if close else f"it must be one of {', '.join(known)}."


def unknown_key(key: str, value: str | None = None) -> UserError:
    """Return the error for a config key that the schema lacks, with a suggestion.

    Args:
      key: as given, such as "optim.learning_rate".
      value: that was given with it on the command line, if any.
    """
    if sentence := moved(key):
        return UserError(sentence)
    config = default_config()
    if has_key(config, key):
        named = value is not None and "name" in config[key]
        example = f", such as --config.{key}.name={value}" if named else ""
        return UserError(
            f"config.{key} is a section, which has no value; give one of its keys{example} "
            f"(--help={key} lists them)."
        )
    if suggestion := suggested_key(key):
        return UserError(f"The config has no key '{key}'; did you mean '{suggestion}'?")
    section = key.rpartition(".")[0]
    where = config[section] if section in config else config
    names = ", ".join(f"{section}.{name}" if where is not config else name for name in where)
    return UserError(f"The config has no key '{key}'; there are {names}.")


def suggested_key(key: str) -> str | None:
    """Return the key that an unknown one most likely stands for, by spelling or by meaning."""
    known = flatten(default_config())
    # The last part is first compared within its own section: `optim.lrr` is nearer to `optim.lr`
    # than to any other key.
    section = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
    last = key.rpartition(".")[2]
    owners = [k for k in known if k.rpartition(".")[2] == last]
    return (
        key_meant(key)
        or closest(key, section, _TYPO)
        or closest(key, known, _TYPO)
        or key_meant(last)
        or closest(key, section)
        or closest(key, known)
        or (owners[0] if len(owners) == 1 else None)
    )
