"""Dotted overrides of the configuration tree, and the tree as plain data."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from iris_fast.agent import FORMER_KEYS
from iris_fast.errors import UserError, nearest
from iris_fast.files import user_path

from .schema import Config

# Keys of the public implementation for settings that are given in another way here.
ELSEWHERE = {
    "env.train.id": "use --game, for example --game Pong",
    "env.test.id": "use --game, for example --game Pong",
    "evaluation.actor_critic.horizon": "use evaluation.imagined_frames={}",
    "evaluation.actor_critic.num_episodes_to_save": "use evaluation.num_imagined_episodes={}",
}
# Keys of former versions: the value that always holds now, and what that means.
REMOVED: dict[str, tuple[Any, str]] = {
    "datasets.train.cache": (True, "frames are always cached, which changes no number"),
    "evaluation.save_reconstructions": (True, "reconstructions are always saved"),
    **FORMER_KEYS,
}
# Keys whose values are paths, in which `~` is expanded.
PATH_KEYS = ("initialization.path_to_checkpoint", "initialization.lpips_weights")
Node = TypeVar("Node")


def config_keys(node: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of the tree and its type."""
    keys: dict[str, Any] = {}
    hints = get_type_hints(node)
    for entry in fields(node):
        hint = hints[entry.name]
        if is_dataclass(hint):
            keys |= config_keys(hint, f"{prefix}{entry.name}.")  # type: ignore[arg-type]
        else:
            keys[prefix + entry.name] = hint
    return keys


def config_values(config: Config) -> dict[str, Any]:
    """The value of every dotted key."""
    return {key: reduce(getattr, key.split("."), config) for key in config_keys()}


def written_value(value: Any) -> str:
    """A value as an override gives it."""
    if value is None:
        return "null"
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def apply_overrides(config: Config, overrides: list[str]) -> Config:
    """The configuration with `key=value` applied (the last of a key wins); UserError for an unknown key or wrong
    type."""
    keys = config_keys()
    changes = _Changes()
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.lstrip("+").strip()
        if not separator:
            raise UserError(f"override '{override}': write key=value, for example common.epochs=100")
        if key in ELSEWHERE:
            raise UserError(f"there is no configuration key '{key}': {ELSEWHERE[key].format(text.strip())}")
        if key in REMOVED:
            raise UserError(f"there is no configuration key '{key}' any more: {REMOVED[key][1]}")
        if key not in keys:
            raise UserError(f"there is no configuration key '{key}'{_suggestion(key, list(keys))}")
        if key in ("game", "preset"):
            raise UserError(f"override '{override}': use --{key} {text}")
        *path, last = key.split(".")
        node = changes
        for name in path:
            node = node.setdefault(name, _Changes())
        value = parse_value(text.strip(), keys[key], key)
        node[last] = _path(value, key) if key in PATH_KEYS and value is not None else value
    return _replace(config, changes)


class _Changes(dict[str, Any]):
    """New values by field; for a field that is a node, its changes."""


def _suggestion(key: str, keys: list[str]) -> str:
    """Nearest keys, by the whole dotted name or by its last word."""
    found = nearest(key, keys, count=2)
    last = key.rsplit(".", 1)[-1]
    if not found:
        same = [known for known in keys if known.rsplit(".", 1)[-1] == last]
        found = f" (nearest: {', '.join(same[:3])})" if same else "; --list-keys shows all"
    return found


def parse_value(text: str, hint: Any, key: str) -> Any:
    """Parses `text` as the type `hint`; UserError with the key and the type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() in ("null", "none", "~"):
            return None
        return parse_value(text, next(a for a in arguments if a is not type(None)), key)
    if origin is Literal:
        if text not in arguments:
            raise UserError(f"{key}={text}: choose one of {', '.join(arguments)}")
        return text
    if origin is tuple:
        items = [item for item in text.strip("[]() ").replace(" ", "").split(",") if item]
        if len(arguments) > 1 and arguments[1] is not Ellipsis and len(items) != len(arguments):
            raise UserError(f"{key}={text}: it takes {len(arguments)} values, as [32,32,64,64]")
        return tuple(parse_value(item, arguments[0], key) for item in items)
    return _parse_scalar(text, hint, key)


def _path(text: str, key: str) -> str:
    try:
        return str(user_path(text))
    except UserError as error:
        raise UserError(f"{key}={text[:40]}: {error}") from None


def _parse_scalar(text: str, hint: Any, key: str) -> Any:
    booleans = {"true": True, "false": False, "yes": True, "no": False}
    try:
        if hint is bool:
            return booleans[text.lower()]
        if hint is int:
            number = float(text.replace("_", ""))
            if number != int(number):
                raise ValueError(text)
            return int(text.replace("_", "")) if text.lstrip("+-").replace("_", "").isdigit() else int(number)
        if hint is float:
            number = float(text.replace("_", ""))
            if number != number or number in (float("inf"), float("-inf")):
                raise ValueError(text)
            return number
    except (ValueError, KeyError, OverflowError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[hint]
        raise UserError(f"{key}={text}: it takes {wanted}") from None
    return text


def _replace(node: Node, changes: _Changes) -> Node:
    """The node with all changes made at once, so that its checks do not depend on their order."""
    values = {
        name: _replace(getattr(node, name), value) if isinstance(value, _Changes) else value
        for name, value in changes.items()
    }
    return replace(node, **values)  # type: ignore[type-var]


def to_dict(node: Any) -> Any:
    """The tree as plain dicts, lists and scalars."""
    if is_dataclass(node):
        return {entry.name: to_dict(getattr(node, entry.name)) for entry in fields(node)}
    return list(node) if isinstance(node, tuple) else node


def from_dict(data: Any, node: type[Node], where: str = "") -> Node:
    """The tree from the plain data of `to_dict`; UserError for unknown keys or wrong types.

    Keys of former versions (`REMOVED`) are left out.
    """
    hints = get_type_hints(node)
    if not isinstance(data, dict):
        raise UserError(f"the configuration's '{where.rstrip('.')}' is not a table of keys")
    known = [entry.name for entry in fields(node)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in data.items():
        if where + str(name) in REMOVED:
            continue
        if name not in known:
            raise UserError(f"there is no configuration key '{where}{name}'{nearest(str(name), known)}")
        hint = hints[name]
        if is_dataclass(hint):
            values[name] = from_dict(value, hint, f"{where}{name}.")  # type: ignore[arg-type]
        elif isinstance(value, list):
            values[name] = parse_value(",".join(map(str, value)), hint, where + name)
        else:
            values[name] = parse_value("null" if value is None else str(value), hint, where + name)
    return node(**values)


def ignored_keys(data: Any, where: str = "") -> list[str]:
    """A line for each removed key in plain data that had another value than always holds now."""
    lines: list[str] = []
    for name, value in data.items() if isinstance(data, dict) else ():
        held, why = REMOVED.get(f"{where}{name}", (value, ""))
        if isinstance(value, dict):
            lines += ignored_keys(value, f"{where}{name}.")
        elif value != held:
            lines.append(f"ignored: {where}{name}={value}, which is no configuration key any more: {why}")
    return lines
