"""Starting real servers as the documentation says, and ending them whatever happens.

Commands and configurations are read out of `docs/real-engines.md`: what is written there is what is tested.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "real-engines.md"
TRAINING_DOCUMENT = DOCUMENT.with_name("training.md")
DOCUMENTED_URL = "http://127.0.0.1:8000"
_STOP_GRACE_S = 20.0


def documented(language: str, title: str, document: Path = DOCUMENT) -> str:
    """The fenced block of a language whose first line is `# title`.

    Raises:
        LookupError: there is none.
    """
    blocks: list[str] = re.findall(
        rf"^```{language}\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE
    )
    for block in blocks:
        if block.startswith(f"# {title}\n"):
            return block
    raise LookupError(f"{document.name} has no {language} block that begins with '# {title}'")


def documented_command(
    title: str, replaced: Mapping[str, str], document: Path = DOCUMENT
) -> tuple[list[str], dict[str, str]]:
    """The words of a documented command with some of them replaced, and the environment it sets."""
    words = shlex.split(documented("sh", title, document).replace("\\\n", " "), comments=True)
    missing = replaced.keys() - set(words)
    if missing:
        raise LookupError(f"the command of '{title}' has no {', '.join(sorted(missing))}")
    settings = [word for word in words if re.match(r"[A-Z_]+=", word)]
    environment = dict(setting.split("=", 1) for setting in settings)
    return [replaced.get(word, word) for word in words if word not in settings], environment


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Generator[subprocess.Popen[bytes]]:
    """A process in a group of its own; the whole group is ended on leaving."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **environment},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + _STOP_GRACE_S
        while _group_lives(process) and time.monotonic() < deadline:
            time.sleep(0.1)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path, deadline_s: float) -> None:
    """Return once the address answers with 200.

    Raises:
        RuntimeError: it ended, or took too long; the message ends with the last lines of its log.
    """
    until = time.monotonic() + deadline_s
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > until:
            state = "is not ready yet" if process.returncode is None else f"ended with {process.returncode}"
            raise RuntimeError(f"{process.args!r} {state} after {deadline_s:g} s at most:\n{tail(log)}")
        time.sleep(0.2)


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own loopback address
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextmanager
def gateway(title: str, engine_url: str, folder: Path) -> Generator[str]:
    """`thinkroute serve` with a documented configuration, pointed at a running engine; yields its address."""
    config, log = folder / "thinkroute.yaml", folder / "gateway.log"
    config.write_text(documented("yaml", title).replace(DOCUMENTED_URL, engine_url))
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "thinkroute.cli.main",
        "serve",
        "--config",
        str(config),
        "--port",
        str(port),
    ]
    with running(command, log, {"XDG_STATE_HOME": str(folder)}) as process:
        wait_until_healthy(f"http://127.0.0.1:{port}/healthz", process, log, deadline_s=60)
        yield f"http://127.0.0.1:{port}"
