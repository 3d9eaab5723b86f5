"""A relayed answer, the teacher's tokens coloured; the same picture as HTML with `--html FILE`. Runs on the embedded fleet.

The student learned to call by `thinkroute train relay`: it does not know what three times four is.
"""

from __future__ import annotations

import asyncio
import html
import sys
from pathlib import Path

from thinkroute.fleet import relay_bench, shipped
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.relay import RelayLimits, RelayLog, relay
from thinkroute.types import Effort

QUESTION = "Start with 4. First times 3. Second plus 9. What is the last digit?"
RED, PLAIN = "\033[1;31m", "\033[0m"


async def main() -> list[tuple[str, str]]:
    """Ask one question and show who wrote what."""
    parts: list[tuple[str, str]] = []
    log = RelayLog()
    async with relay_bench.opened_bench(
        [],
        student=shipped.directory("student-relay"),
        teacher=shipped.directory("teacher"),
        effort=Effort("on"),
    ) as bench:
        program = relay(bench.arm, None, bench.thinking, RelayLimits(most_calls=16), log)
        prompt = Prompt([{"role": "user", "content": QUESTION}])
        run = Run(program, prompt, bench.engines, bench.prices)
        channel = "reasoning"
        async for delta in run.events():
            if delta.channel != channel:
                channel = delta.channel
                parts.append((relay_bench.STUDENT, "\n\n"))
            parts.append((delta.owner, delta.text))
    for owner, text in parts:
        print(f"{RED}{text}{PLAIN}" if owner == relay_bench.TEACHER else text, end="")
    print(f"\n\n{len(log.hand_overs)} hand-overs: the teacher wrote {log.teacher_tokens} tokens, ", end="")
    print(f"{log.teacher_share:.1%} of all, for ${run.ledger.cost_usd or 0:.6f} in all")
    return parts


STYLE = "<!doctype html><meta charset=utf-8><style>.teacher{color:#c00}p{white-space:pre-wrap}</style>"

if __name__ == "__main__":
    written = asyncio.run(main())
    if sys.argv[1:2] == ["--html"]:
        marked = [f"<span class={owner}>{html.escape(text)}</span>" for owner, text in written]
        Path(sys.argv[2]).write_text(f"{STYLE}<p>{''.join(marked)}</p>\n", encoding="utf-8")
