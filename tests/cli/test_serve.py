"""The gateway as a process of its own, spoken to by the official client."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI, UnprocessableEntityError

COMMAND = [sys.executable, "-m", "thinkroute.cli.main", "serve"]
HARD = "Dora has 2 coins. On Monday she gets 5. On Tuesday she doubles them. What is the last digit?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A served fleet; the process and its base URL."""
    state = tmp_path_factory.mktemp("state")
    environment = os.environ | {"XDG_STATE_HOME": str(state), "COLUMNS": "200"}
    process = subprocess.Popen([*COMMAND, "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    url = next(
        (found.group(0) for line in process.stderr if (found := re.search(r"http://\S+/v1", line))), None
    )
    assert url is not None, "the gateway did not announce itself"
    yield process, url
    process.terminate()
    process.wait(10)
    process.stderr.close()


def client(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key="none", max_retries=0)


def ask(url: str, question: str, **more: Any) -> Any:
    with client(url) as openai:
        create: Any = openai.chat.completions.create  # the overloads cannot be told apart with **more
        return create(messages=[{"role": "user", "content": question}], **more)


def test_the_official_client_gets_an_answer(server: tuple[subprocess.Popen[str], str]) -> None:
    answer = ask(server[1], HARD, model="teacher@on")
    assert answer.choices[0].message.content.endswith("is 4.")
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    assert answer.model == "teacher"


def test_the_official_client_streams(server: tuple[subprocess.Popen[str], str]) -> None:
    with client(server[1]) as openai:
        stream = openai.chat.completions.create(
            model="teacher@budget=16",
            messages=[{"role": "user", "content": HARD}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text.startswith("after all the steps")
    assert chunks[-1].usage is not None


def test_a_foreign_question_is_a_clear_422(server: tuple[subprocess.Popen[str], str]) -> None:
    with pytest.raises(UnprocessableEntityError) as caught:
        ask(server[1], "Write a poem about the sea.", model="auto")
    assert "thinkroute serve --upstream" in str(caught.value)
    assert "Who is the tutor" in str(caught.value)


def test_models_are_listed(server: tuple[subprocess.Popen[str], str]) -> None:
    with client(server[1]) as openai:
        assert {"auto", "student", "teacher@on"} <= {model.id for model in openai.models.list()}


def test_memory_stays_small(server: tuple[subprocess.Popen[str], str]) -> None:
    status = Path(f"/proc/{server[0].pid}/status")
    if not status.exists():
        pytest.skip("no /proc on this system")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text(encoding="ascii"))
    assert found is not None
    assert int(found.group(1)) < 200_000


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*COMMAND, "--port", port], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "choose another with --port" in done.stderr


def test_an_interrupt_ends_it_quickly_and_keeps_the_log(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "COLUMNS": "200"}
    with subprocess.Popen(
        [*COMMAND, "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        url = next(found.group(0) for line in process.stderr if (found := re.search(r"http://\S+/v1", line)))
        decision_id = ask(url, HARD, model="student@off").model_extra["thinkroute"]["decision_id"]
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        assert time.monotonic() - started < 5
    shown = subprocess.run(
        [sys.executable, "-m", "thinkroute.cli.main", "explain", decision_id, "--json"],
        capture_output=True, text=True, check=True, env=environment, timeout=60,
    )  # fmt: skip
    assert '"arm_id":"student@off"' in shown.stdout
