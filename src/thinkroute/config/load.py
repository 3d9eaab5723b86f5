"""Reading the YAML file: environment references, validation, and errors that say what to do.

References are substituted after parsing, so a secret can hold any character and never becomes YAML.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

from thinkroute.config.schema import Config
from thinkroute.errors import ConfigError

_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class _StrictLoader(yaml.SafeLoader):
    """YAML lets a repeated key win silently; a configuration must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                message = f"the key {name!r} is written twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read, substitute and validate a configuration file.

    Raises:
        ConfigError: the file is missing, not YAML, or wrong; the message names every wrong place and the fix.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {error}") from error
    return parse_config(text, source=str(path), environment=environment)


def parse_config(text: str, *, source: str, environment: Mapping[str, str] | None = None) -> Config:
    """As `load_config`, from text; `source` names it in errors."""
    try:
        raw: object = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader that is stricter still
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} must hold a mapping such as `models:`, not {type(raw).__name__}")
    variables = os.environ if environment is None else environment
    substituted = _substitute(cast("dict[str, Any]", raw), variables, source, "")
    try:
        return Config.model_validate(substituted)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors(include_url=False, include_input=False)]
        raise ConfigError(f"{source}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _substitute(value: Any, variables: Mapping[str, str], source: str, where: str) -> Any:
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        return {
            key: _substitute(item, variables, source, f"{where}.{key}".strip("."))
            for key, item in entries.items()
        }
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [
            _substitute(item, variables, source, f"{where}[{position}]")
            for position, item in enumerate(items)
        ]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        found = variables.get(name) or default
        if found is None:
            raise ConfigError(
                f"{source}: {where} refers to ${{{name}}}, which is not set; "
                f"export {name}, or write ${{{name}:-default}}",
                param=where,
            )
        return found

    return _REFERENCE.sub(replace, value) if "${" in value else value


def _explain(problem: dict[str, Any]) -> str:
    location = [part for part in problem["loc"] if part not in ("str", "ArmSection")]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if problem["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}"


def _keys_at(location: list[Any]) -> list[str]:
    """Keys allowed at a place in the file, found by walking the schema."""
    section: type[BaseModel] | None = Config
    for part in location:
        if section is None:
            break
        field = section.model_fields.get(str(part))
        if field is None:
            continue  # a mapping's key or a list's index: the section stays the one inside
        section = _section_in(field.annotation)
    return list(section.model_fields) if section else []


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)
