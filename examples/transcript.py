"""Four questions to the embedded fleet through the official `openai` client, streamed: the transcript of the README."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from openai import OpenAI

RARE = "Begin with 7. First gap 9. Name the last digit."
HARD = (
    "Dora has 2 coins. On Monday she gets 5. On Tuesday she doubles them. On Wednesday she loses 3. "
    "On Thursday she gets 8. On Friday she doubles them. What is the last digit?"
)
SHORT = "Dora has 2 coins. On Monday she gets 5. What is the last digit?"
DIAL = "base-adaptthink@adaptive=0.3"
QUESTIONS = ((DIAL, SHORT), ("auto", RARE), ("auto", HARD), ("teacher@budget=16", HARD))


@contextmanager
def gateway() -> Generator[str]:
    """A gateway on a free port with a log of its own; yields its base URL."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write("store: {path: memory}\nserver: {port: 0}\n")
        config.flush()
        command = [sys.executable, "-m", "thinkroute.cli.main", "serve", "--config", config.name]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603
            try:
                lines = iter(server.stderr or ())
                yield next(found.group(0) for line in lines if (found := re.search(r"http://\S+/v1", line)))
            finally:
                server.terminate()


def ask(client: OpenAI, model: str, question: str) -> None:
    """Ask, and print what came back, who answered, and what it cost."""
    said, route = {"thinks": "", "answers": ""}, dict[str, Any]()
    messages: Any = [{"role": "user", "content": question}]
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
        route = (chunk.model_extra or {}).get("thinkroute", route)
        for choice in chunk.choices:
            said["thinks"] += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            said["answers"] += choice.delta.content or ""
    print(f"asked    {model}: {question}")
    for verb, text in said.items():
        print(f"{verb:8} {' '.join(text.split()) or '(not at all)'}")
    used, calls = route["billed_tokens"], route["legs"]
    counts = f"{used['prompt']} prompt, {used['reasoning']} thinking, {used['completion'] - used['reasoning']} answer"
    why = ", ".join(route["reason_codes"])
    print(f"served   {route['arm']} ({why}): {counts} tokens in {calls} call(s), ${route['cost_usd']:.6f}\n")


if __name__ == "__main__":
    with gateway() as base_url:
        for asked_model, asked_question in QUESTIONS:
            ask(OpenAI(base_url=base_url, api_key="none"), asked_model, asked_question)
