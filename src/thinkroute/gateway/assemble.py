"""Putting a gateway together: from what a user gave (a file, an upstream, nothing) to a `Runtime`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinkroute.catalog import Model
from thinkroute.config import Config, Resolved, load_config, resolve
from thinkroute.errors import ConfigError
from thinkroute.gateway.arm_info import arm_facts, introduced
from thinkroute.gateway.relaying import check_relays
from thinkroute.gateway.runtime import Runtime, ScopeCheck
from thinkroute.programs.protocol import Engine
from thinkroute.routers.base import Router
from thinkroute.routers.cascade import CascadeRules
from thinkroute.store import Store

MAX_DISCOVERED_MODELS = 8
_DISCOVERY_TIMEOUT_S = 5.0


def read_config(
    path: Path | None = None,
    upstream: str | None = None,
    models: Sequence[str] = (),
    upstream_key: str | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
) -> Config:
    """A configuration from a file, or from an upstream's address alone, with the listening address laid over it.

    Raises:
        ConfigError: both a file and an upstream, a wrong file, or an upstream that cannot be asked for its models.
    """
    if path is not None and upstream is not None:
        raise ConfigError("give either --config or --upstream, not both; list the upstream under `models:`")
    if models and upstream is None:
        raise ConfigError("--model goes with --upstream; in a configuration, list models under `models:`")
    config = load_config(path) if path is not None else Config()
    if upstream is not None:
        config = config_for_upstream(upstream, models, upstream_key)
    changes = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    if not changes:
        return config
    return Config.model_validate({**_plain(config), "server": {**_plain(config.server), **changes}})


def config_for_upstream(upstream: str, models: Sequence[str], key: str | None) -> Config:
    """A configuration for one OpenAI-compatible server; asks it for its models unless they are named.

    Raises:
        ConfigError: it cannot be reached, lists no model, or lists too many to choose among blindly.
    """
    from thinkroute.engines.http import list_models
    from thinkroute.errors import EngineError

    names = list(models)
    if not names:
        try:
            names = asyncio.run(list_models(upstream.rstrip("/"), key, _DISCOVERY_TIMEOUT_S))
        except EngineError as error:
            raise ConfigError(
                f"cannot ask {upstream} for its models: {error.message}; is it running, and does the address end "
                "in /v1? Name a model with --model to start without asking"
            ) from error
    if not names:
        raise ConfigError(f"{upstream} lists no model; name one with --model")
    if len(names) > MAX_DISCOVERED_MODELS:
        raise ConfigError(
            f"{upstream} lists {len(names)} models; choose with --model (repeatable), e.g. --model {names[0]}"
        )
    entry: dict[str, Any] = {"url": upstream}
    if key:
        entry["api_key"] = key
    sections = {_local_name(name): {**entry, "upstream_name": name} for name in names}
    return Config.model_validate({"models": sections})


def _local_name(upstream_name: str) -> str:
    """A name callers can type: characters that mean something to us are replaced."""
    return upstream_name.replace("@", "-").replace("(", "-").replace(")", "-")


def assemble(config: Config, store: Store | None = None, router: Router | None = None) -> Runtime:
    """A runtime, not started yet.

    Args:
        config: What the user wrote.
        store: Where decisions go; None opens what the configuration names.
        router: Where predictions come from; None loads what the configuration names.

    Raises:
        ConfigError: names that do not fit, or a router or store that cannot be read.
    """
    resolved = resolve_shipped(config)
    check_relays(resolved)
    check_scope = _scope_check(resolved)
    return Runtime(
        resolved=resolved,
        engines=_engines(resolved.models, check_scope),
        router=router_of(resolved) if router is None else router,
        store=open_store(config) if store is None else store,
        check_scope=check_scope,
        cascades=_cascades(resolved),
    )


def resolve_shipped(config: Config) -> Resolved:
    """A configuration completed with what the package ships: the fleet, and the cascade fitted on it.

    The cascade is left out where the configuration brings its own: that one knows other stages.

    Raises:
        ConfigError: names that do not fit.
    """
    from thinkroute.fleet import shipped

    arms = shipped.arms()
    if config.cascade.path is None:
        arms = (*arms, shipped.cascade_arm())
    return resolve(config, shipped.models(), arms)


def _scope_check(resolved: Resolved) -> ScopeCheck | None:
    if all(model.engine != "embedded" for model in resolved.models.values()):
        return None
    from thinkroute.fleet.tasks import check_scope

    return check_scope


def _engines(models: Mapping[str, Model], check_scope: ScopeCheck | None) -> dict[str, Engine]:
    engines: dict[str, Engine] = {}
    embedded = [name for name, model in models.items() if model.engine == "embedded"]
    if embedded:
        from thinkroute.engines.embedded import EmbeddedEngine
        from thinkroute.fleet import shipped

        directories = {name: shipped.directory(name) for name in embedded}
        engine = EmbeddedEngine(directories, check_scope=check_scope)
        engines |= dict.fromkeys(embedded, engine)
    upstream = {name: model for name, model in models.items() if model.engine == "http"}
    if upstream:
        from thinkroute.engines.http import HttpEngine

        http_engine = HttpEngine(upstream)
        engines |= dict.fromkeys(upstream, http_engine)
    return engines


def router_of(resolved: Resolved) -> Router:
    """The router of a configuration: the fitted one it names, the fleet's own, or the shipped prior.

    A router that takes in arms by their description is told of those it has no outcomes of.

    Raises:
        ConfigError: the named folder holds none.
        DataError: what it holds is damaged.
    """
    path = resolved.config.router.path
    if path is not None:
        from thinkroute.routers import load_router

        return introduced(load_router(Path(path).expanduser()), resolved)
    if all(model.engine == "embedded" for model in resolved.models.values()):
        from thinkroute.fleet import shipped
        from thinkroute.routers import load_router

        return load_router(shipped.router_directory())
    return _prior(resolved)


def _prior(resolved: Resolved) -> Router:
    """The shipped prior for real text, told what is known of every arm that can be asked for."""
    from thinkroute.routers.realtext import RealTextPrior

    return RealTextPrior(arm_facts(resolved))


def _cascades(resolved: Resolved) -> CascadeRules | None:
    """What the cascade arms decide by; every one of them must have been fitted."""
    arms = {arm.id: arm for name in resolved.virtual_models.values() for arm in name.arms if arm.stages}
    if not arms:
        return None
    from thinkroute.fleet import shipped
    from thinkroute.routers.cascade import load_cascade

    path = resolved.config.cascade.path
    rules = CascadeRules(load_cascade(Path(path).expanduser() if path else shipped.cascade_directory()))
    for arm in arms.values():
        rules.check(arm)
    return rules


def open_store(config: Config) -> Store:
    """The decision log a configuration names.

    Raises:
        ConfigError: it cannot be opened.
    """
    from thinkroute.store import MemoryStore

    if config.store.path == "memory":
        return MemoryStore()
    from thinkroute.store.sqlite import SqliteStore

    path = Path(config.store.path).expanduser() if config.store.path else default_store_path(os.environ)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the decision log at {path}: {error.strerror}; set store.path, or store.path: memory",
            param="store.path",
        ) from error
    return SqliteStore(path)


def default_store_path(environment: Mapping[str, str]) -> Path:
    """The decision log's place when none is configured: the user's state folder."""
    state = environment.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return base / "thinkroute" / "decisions.db"


def _plain(section: Any) -> dict[str, Any]:
    """A section's own values, secrets still wrapped, ready to be validated again."""
    return {name: getattr(section, name) for name in section.model_fields_set}
