"""Three questions to the embedded fleet through the official `openai` client, streamed: the transcript of the README.

Run it with `make transcript`, or `python examples/transcript.py` where thinkroute and openai are installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI

HARD = (
    "Dora has 2 coins. On Monday she gets 5. On Tuesday she doubles them. On Wednesday she loses 3. "
    "On Thursday she gets 8. On Friday she doubles them. What is the last digit?"
)
QUESTIONS = (
    ("an easy one, the router decides", "auto", "Who is the tutor of Dora?"),
    (
        "a hard one, the router decides",
        "auto",
        HARD,
    ),
    (
        "the same hard one, thinking cut after 16 tokens",
        "teacher@budget=16",
        HARD,
    ),
)


@contextmanager
def gateway() -> Iterator[str]:
    """A gateway on a free port; yields its base URL."""
    command = [sys.executable, "-m", "thinkroute.cli.main", "serve", "--port", "0"]
    environment = os.environ | {"XDG_STATE_HOME": os.environ.get("XDG_STATE_HOME", "/tmp"), "COLUMNS": "200"}  # noqa: S108
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:  # noqa: S603
        try:
            for line in server.stderr or ():
                if found := re.search(r"http://\S+/v1", line):
                    yield found.group(0)
                    return
            raise SystemExit("the gateway did not start")
        finally:
            server.terminate()


def main() -> None:
    """Ask, and print what came back and what it cost."""
    with gateway() as base_url:
        client = OpenAI(base_url=base_url, api_key="none")
        for title, model, question in QUESTIONS:
            print(f"# {title}\nmodel    {model}\nuser     {question}")
            said, route = {"thinks": "", "answers": ""}, {}
            messages = [{"role": "user", "content": question}]
            for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
                extra = chunk.model_extra or {}
                route = extra.get("thinkroute", route)
                for choice in chunk.choices:
                    said["thinks"] += (choice.delta.model_extra or {}).get("reasoning_content") or ""
                    said["answers"] += choice.delta.content or ""
            for verb, text in said.items():
                print(f"{verb:8} {' '.join(text.split()) or '(not at all)'}")
            tokens = route["billed_tokens"]
            print(
                f"served   {route['arm']} ({', '.join(route['reason_codes'])}): {tokens['prompt']} prompt, "
                f"{tokens['reasoning']} thinking, {tokens['completion'] - tokens['reasoning']} answer tokens in "
                f"{route['legs']} call(s), ${route['cost_usd']:.8f}\n"
            )


if __name__ == "__main__":
    main()
