"""The config: its schema, checks, suggestions, and loading from a file.

schema        default_config, flatten, has_key, add_section, added_sections
check         check_keys, kind_of, element_type
suggestions   closest, nearest, suggested_key, unknown_key
synonyms      names that other codebases give to keys, flags and modes
old_keys      keys of version 0.1.0, for saved runs
durations     duration
fitted_edges  with_fitted_edges
file          load_config
variant       check_variant, UnknownVariant
overrides     override, split_overrides
"""

from cdt.config.check import check_keys, element_type, kind_of
from cdt.config.durations import duration
from cdt.config.file import load_config
from cdt.config.fitted_edges import with_fitted_edges
from cdt.config.overrides import override, split_overrides
from cdt.config.schema import add_section, added_sections, default_config, flatten, has_key
from cdt.config.suggestions import closest, nearest, suggested_key, unknown_key
from cdt.config.variant import UnknownVariant, check_variant

__all__ = [
    "UnknownVariant",
    "add_section",
    "added_sections",
    "check_keys",
    "check_variant",
    "closest",
    "default_config",
    "duration",
    "element_type",
    "flatten",
    "has_key",
    "kind_of",
    "load_config",
    "nearest",
    "override",
    "split_overrides",
    "suggested_key",
    "unknown_key",
    "with_fitted_edges",
]
