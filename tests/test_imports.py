"""Importing does nothing, and serving never meets torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "onnx", "pandas", "sklearn", "scipy", "matplotlib", "pyarrow", "alembic")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_gateway_is_assembled_without_torch_or_other_heavy_imports() -> None:
    loaded = run(
        "import sys\n"
        "from thinkroute.config import Config\n"
        "from thinkroute.gateway.assemble import assemble\n"
        "from thinkroute.gateway.app import App\n"
        "import thinkroute.cli.main\n"
        "App(assemble(Config.model_validate({'store': {'path': 'memory'}})))\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_answering_with_the_embedded_fleet_never_imports_torch() -> None:
    loaded = run(
        "import asyncio, json, sys\n"
        "from thinkroute.config import Config\n"
        "from thinkroute.fleet.tasks import EXAMPLES\n"
        "from thinkroute.gateway.assemble import assemble\n"
        "from thinkroute.gateway.converse import converse\n"
        "async def main():\n"
        "    runtime = assemble(Config.model_validate({'store': {'path': 'memory'}}))\n"
        "    await runtime.start()\n"
        "    body = {'model': 'auto', 'messages': [{'role': 'user', 'content': EXAMPLES[0]}]}\n"
        "    await converse(runtime, json.dumps(body).encode(), lambda delta: None)\n"
        "    await runtime.aclose()\n"
        "asyncio.run(main())\n"
        "print([name for name in ('torch', 'transformers', 'onnx') if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["thinkroute", "thinkroute.types", "thinkroute.config", "thinkroute.testing"]
)
def test_importing_reads_no_environment_and_opens_no_socket(module: str) -> None:
    run(
        "import os, socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('a socket at import')\n"
        "socket.socket.connect = refuse\n"
        f"import {module}\n"
    )


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "thinkroute", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("thinkroute ")
