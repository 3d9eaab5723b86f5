"""The public API as text: names and signatures of the modules users import. `make api` rewrites the committed file."""

from __future__ import annotations

import importlib
import inspect
import sys

MODULES = (
    "thinkroute",
    "thinkroute.types",
    "thinkroute.errors",
    "thinkroute.config",
    "thinkroute.programs",
    "thinkroute.programs.effects",
    "thinkroute.programs.protocol",
    "thinkroute.programs.driver",
    "thinkroute.policy",
    "thinkroute.routers",
    "thinkroute.store",
    "thinkroute.testing",
)


def render() -> str:
    """One line per public name, sorted, with its signature where it has one."""
    lines: list[str] = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        exported: list[str] = getattr(
            module, "__all__", [name for name in vars(module) if not name.startswith("_")]
        )
        for name in sorted(exported):
            value = getattr(module, name)
            home = getattr(value, "__module__", module_name)
            if inspect.ismodule(value) or not (str(home) or "").startswith("thinkroute"):
                continue
            if "__all__" not in vars(module) and home != module_name:
                continue
            lines.append(f"{module_name}.{name}{_signature(value)}")
            if inspect.isclass(value):
                lines += [f"{module_name}.{name}.{line}" for line in _methods(value)]
    return "\n".join(lines) + "\n"


def _methods(value: type) -> list[str]:
    names = sorted(name for name in vars(value) if not name.startswith("_"))
    members = [(name, inspect.getattr_static(value, name)) for name in names]
    return [
        f"{name}{_signature(getattr(value, name))}" for name, member in members if inspect.isroutine(member)
    ]


def _signature(value: object) -> str:
    if not callable(value):
        return ""
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return "(…)"


if __name__ == "__main__":
    sys.stdout.write(render())
