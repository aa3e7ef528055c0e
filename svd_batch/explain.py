"""One clear sentence from the errors of the configuration system. Text in, text out."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from svd_batch.config import Config
from svd_batch.errors import UserError
from svd_batch.submit.settings import CLUSTERS

_FULL_KEY = re.compile(r"full_key: (\S+)")
_UNKNOWN = re.compile(r"Could not override '([^']+)'")
_ALREADY = re.compile(r"Could not append to config\. An item is already at '([^']+)'")
_NOT_BOOL = re.compile(r"Value '(.*?)' is not a valid bool", re.DOTALL)
_NOT_IN = re.compile(r"Key '([^']+)' (?:is )?not in '\w+'")
_NO_OPTION = re.compile(r"Could not find '([^']+)'")
_CONVERT = re.compile(r"Value '(.*?)' of type '\w+' could not be converted to (\w+)", re.DOTALL)
_ENUM = re.compile(r"Invalid value '(.*?)', expected one of \[(.*?)\]", re.DOTALL)
_UNREADABLE = (
    "LexerNoViableAltException",
    "mismatched input",
    "no viable alternative",
    "Config group override must be",
)
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=']+)=(.*)'")
_TWICE = re.compile(r"Multiple values for (\w+)")
_GROUPS = (
    "model",
    "generation",
    "quality",
    "sampler",
    "sweep",
    "refine",
    "memory",
    "speed",
    "video",
    "backend",
    "logger",
    "cluster",
)


def known_keys(kind: type = Config, prefix: str = "") -> Iterator[str]:
    """Yield every key of the configuration, dotted."""
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            for kind_of in (hint, *(CLUSTERS.values() if name == "cluster" else ())):
                yield from known_keys(kind_of, f"{prefix}{name}.")


def check_known(node: Any, kind: type = Config, prefix: str = "") -> None:
    """Raise UserError for the first key of a configuration that the schema does not have."""
    if prefix == "cluster.":
        kind = CLUSTERS.get(getattr(node.get("kind"), "value", ""), kind)
    hints = get_type_hints(kind)
    for name, value in node.items():
        if name not in hints:
            raise UserError(_unknown_key(f"{prefix}{name}"))
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, dict):
            check_known(value, hints[name], f"{prefix}{name}.")


def explain(error: BaseException, options: Mapping[str, Sequence[str]]) -> str:
    """Return one sentence for an error of Hydra or OmegaConf; `options` names the files of each config group."""
    text = "\n".join(str(e) for e in _chain(error))
    key = _FULL_KEY.search(text)
    if found := _NO_OPTION.search(text):
        return _no_option(found[1], options)
    if found := _NOT_IN.search(text):
        return _unknown_key(key[1] if key else found[1])
    if found := _UNKNOWN.search(text):
        return _unknown_group_or_key(found[1], options)
    if found := _ALREADY.search(text):
        return f"{found[1]} is there already; leave the + out"
    if found := _TWICE.search(text):
        return f"{found[1]} is given twice; give +{found[1]}=NAME once"
    if found := _AMBIGUOUS.search(text):
        return f"{found[1]}: several values go in brackets: '{found[1]}=[{found[2]}]'; with --multirun each is a job"
    where = f"{key[1]}: " if key else ""
    if found := _NOT_BOOL.search(text):
        return f"{where}{found[1]!r} is not accepted; give true or false"
    if found := _CONVERT.search(text):
        kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(found[2], found[2])
        several = (
            "; several values go into sweep" if where.startswith("generation.") and found[1].startswith("[") else ""
        )
        return f"{where}{found[1]!r} is not accepted; give {kind}{several}"
    if found := _ENUM.search(text):
        return f"{where}{found[1]!r} is not accepted; give one of {found[2]}"
    if any(words in text for words in _UNREADABLE):
        return _unreadable(error, text)
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "full_key" not in line]
    return where + (lines[0] if lines else type(error).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _unreadable(error: BaseException, text: str) -> str:
    override = next((str(e.override) for e in _chain(error) if hasattr(e, "override")), "")
    key, equals, value = override.partition("=")
    if equals and not any(quote in value for quote in "'\"[]{}"):
        return f"can't read the override {override}; quote its value, for the shell and in itself: '{key}=\"{value}\"'"
    first = text.splitlines()[0]
    return f"can't read the override: {first}; the form is key=value, quoted where the shell or a list needs it"


def _unknown_key(key: str) -> str:
    close = difflib.get_close_matches(key, list(known_keys()), n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else "; `run --help` and `run --cfg job` show the keys"
    return f"unknown key {key}{hint}"


def _unknown_group_or_key(name: str, options: Mapping[str, Sequence[str]]) -> str:
    if name in ("sweep", "logger"):
        return f"{name} is added, not replaced: write +{name}=NAME, one of {', '.join(options.get(name, ()))}"
    return _unknown_key(name)


def _no_option(name: str, options: Mapping[str, Sequence[str]]) -> str:
    group, _, option = name.rpartition("/")
    available = options.get(group, ())
    close = difflib.get_close_matches(option, available, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    if not available:
        groups = ", ".join(_GROUPS)
        return f"unknown group {group or name}; the groups are {groups}"
    return (
        f"{group}={option} is not there{hint} There are {', '.join(available)}"
        if hint
        else (f"{group}={option} is not there; there are {', '.join(available)}")
    )
