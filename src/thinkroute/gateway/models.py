"""`GET /v1/models`: every name a caller may ask for, in OpenAI's shape, with what we know of it."""

from __future__ import annotations

from typing import Any

from thinkroute.errors import UnknownModel
from thinkroute.gateway.asgi import Request
from thinkroute.gateway.runtime import Runtime


async def list_models(runtime: Runtime, http: Request) -> None:
    """All names: virtual models, models, and arms as `model@effort`."""
    await http.reply_json(200, {"object": "list", "data": _entries(runtime)})


async def show_model(runtime: Runtime, http: Request) -> None:
    """One name."""
    asked = http.path.removeprefix("/v1/models/")
    for entry in _entries(runtime):
        if entry["id"] == asked:
            await http.reply_json(200, entry)
            return
    raise UnknownModel(f"the model {asked!r:.200} does not exist; GET /v1/models lists the names")


def _entries(runtime: Runtime) -> list[dict[str, Any]]:
    resolved = runtime.resolved
    entries = [
        _entry(name, kind="virtual", arms=[arm.id for arm in virtual.arms], value_usd=virtual.value_usd)
        for name, virtual in resolved.virtual_models.items()
    ]
    for name, model in resolved.models.items():
        price = model.price
        entries.append(
            _entry(
                name,
                kind="model",
                family=model.family.name,
                efforts=list(model.family.levels),
                off_means=model.family.off_means,
                context_window=model.context_window,
                price_usd_per_mtok={"input": price.input_usd_per_mtok, "output": price.output_usd_per_mtok}
                if price
                else "unknown",
            )
        )
    return entries + [_entry(arm.id, kind="arm", program=arm.program) for arm in resolved.arms]


def _entry(model_id: str, **thinkroute: Any) -> dict[str, Any]:
    return {
        "id": model_id,
        "object": "model",
        "created": 0,
        "owned_by": "thinkroute",
        "thinkroute": thinkroute,
    }
