"""The configuration of a run: a typed tree, named presets, dotted overrides."""

from .overrides import (
    apply_overrides,
    config_keys,
    config_values,
    from_dict,
    ignored_keys,
    to_dict,
    written_value,
)
from .presets import PRESETS, preset_config
from .schema import Config, resolve, unresolve
from .validation import validate

__all__ = [
    "PRESETS",
    "Config",
    "apply_overrides",
    "config_keys",
    "config_values",
    "from_dict",
    "ignored_keys",
    "preset_config",
    "resolve",
    "to_dict",
    "unresolve",
    "validate",
    "written_value",
]
