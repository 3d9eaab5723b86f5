"""`thinkroute ask`: one question on the terminal, with the thinking, the answer and the decision card."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.serve import ConfigOption, UpstreamKeyOption, UpstreamModelOption, UpstreamOption

if TYPE_CHECKING:
    from thinkroute.gateway.exchange import Exchange
    from thinkroute.gateway.runtime import Runtime
    from thinkroute.programs.driver import Delta


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ask")(ask)


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    to: Annotated[str, typer.Option("--to", help="auto, a model, or model@effort.")] = "auto",
    effort: Annotated[
        str | None,
        typer.Option(help="Your own wish: none, low, medium, high, …; default: the router decides."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Cap on generated tokens, thinking included.")
    ] = None,
    config: ConfigOption = None,
    upstream: UpstreamOption = None,
    model: UpstreamModelOption = None,
    upstream_key: UpstreamKeyOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer and the decision as JSON.")
    ] = False,
) -> None:
    """Ask one question and see why it was answered the way it was."""
    from thinkroute.gateway.assemble import assemble, read_config

    runtime = assemble(read_config(config, upstream, model or [], upstream_key))
    body: dict[str, object] = {
        "model": to,
        "messages": [{"role": "user", "content": question}],
        "stream": True,
    }
    if effort is not None:
        body["reasoning_effort"] = effort
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    asyncio.run(_ask(runtime, body, as_json=as_json))


async def _ask(runtime: Runtime, body: dict[str, object], *, as_json: bool) -> None:
    import orjson

    from thinkroute.cli.card import card_table
    from thinkroute.cli.console import err, out
    from thinkroute.gateway.converse import converse
    from thinkroute.gateway.recording import card, to_record

    console = out()
    texts = {"reasoning": "", "answer": ""}

    def show(delta: Delta) -> None:
        texts[delta.channel] += delta.text
        if not as_json:
            style = "dim italic" if delta.channel == "reasoning" else "bold"
            if delta.channel == "answer" and texts["answer"] == delta.text and texts["reasoning"]:
                console.print()
            console.print(delta.text, end="", style=style, markup=False, highlight=False, soft_wrap=True)

    await runtime.start()
    try:
        exchange: Exchange = await converse(runtime, orjson.dumps(body), show)
    finally:
        await runtime.aclose()
    if as_json:
        record = card(to_record(exchange, log_content=True))
        console.file.write(orjson.dumps({**texts, "decision": record}).decode() + "\n")
        return
    console.print()
    err().print(card_table(card(to_record(exchange, log_content=False))))
