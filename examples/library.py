"""thinkroute without a socket: assemble a runtime, ask, and read the decision. Runs on the embedded fleet."""

from __future__ import annotations

import asyncio
import json

from thinkroute.config import Config
from thinkroute.gateway.assemble import assemble
from thinkroute.gateway.converse import converse
from thinkroute.programs.driver import Delta


def show(delta: Delta) -> None:
    """Print the answer as it comes, and leave the thinking out."""
    if delta.channel == "answer":
        print(delta.text, end="", flush=True)


async def main() -> None:
    """Ask one question at two values of a right answer: the dial moves from cheap to sure."""
    for value_usd in (0.0005, 0.05):
        settings = {"store": {"path": "memory"}, "policy": {"value_usd": value_usd}}
        runtime = assemble(Config.model_validate(settings))
        await runtime.start()
        question = "Start with 4. First times 3. Second plus 9. What is the last digit?"
        body = {"model": "auto", "messages": [{"role": "user", "content": question}]}
        exchange = await converse(runtime, json.dumps(body).encode(), show)
        print(f"\nat ${value_usd} a right answer: {exchange.arm_id}, ${exchange.ledger.cost_usd:.6f}\n")
        await runtime.aclose()


if __name__ == "__main__":
    asyncio.run(main())
