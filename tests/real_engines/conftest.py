"""One process of each real server per session: with a gateway in front of it, or alone for a training run.

Environment: `THINKROUTE_VLLM` and `THINKROUTE_LLAMA_SERVER` name the servers' programs where they are not in the usual
places; `THINKROUTE_ENGINES_MEMBER` names another member than the teacher, or a folder with one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_engines.client import RealEngine
from tests.real_engines.servers import (
    TRAINING_DOCUMENT,
    documented_command,
    free_port,
    gateway,
    running,
    wait_until_healthy,
)
from thinkroute.fleet import shipped
from thinkroute.fleet.gguf import export_gguf

_VLLM = Path(__file__).parents[2] / ".venv-engines" / "bin" / "vllm"
_VLLM_START_S = 420.0
"""About 45 CPU seconds; minutes on a machine with other work."""
_LLAMA_SERVER_START_S = 60.0


def _member() -> Path:
    named = os.environ.get("THINKROUTE_ENGINES_MEMBER", "teacher")
    return shipped.directory(named) if named in shipped.names() else Path(named)


def _vllm_program() -> Path:
    program = Path(os.environ.get("THINKROUTE_VLLM", _VLLM))
    if not program.exists():
        pytest.skip(f"no vLLM at {program}: run `make test-engines`, or set THINKROUTE_VLLM")
    return program


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    """Real vLLM on the CPU, serving a member."""
    program = _vllm_program()
    folder, port = tmp_path_factory.mktemp("vllm"), free_port()
    replaced = {"vllm": str(program), "./teacher": str(_member()), "8000": str(port)}
    command, environment = documented_command("vLLM", replaced)
    log, url = folder / "vllm.log", f"http://127.0.0.1:{port}"
    with running(command, log, environment) as process:
        wait_until_healthy(f"{url}/health", process, log, _VLLM_START_S)
        with gateway("vLLM", url, folder) as address:
            yield RealEngine("vllm", url, address, _member(), log)


@pytest.fixture(scope="session")
def rollout_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API root of real vLLM on the CPU, started as a training run needs it, with the student that calls."""
    replaced = {
        "vllm": str(_vllm_program()),
        "Qwen/Qwen3-0.6B": str(shipped.directory("student-relay")),
        "8000": str(port := free_port()),
    }
    command, environment = documented_command("vLLM for rollouts", replaced, TRAINING_DOCUMENT)
    small = ["--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "16", "--enforce-eager"]
    on_cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    log = tmp_path_factory.mktemp("rollouts") / "vllm.log"
    with running([*command, *small], log, {**environment, **on_cpu}) as process:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log, _VLLM_START_S)
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    """The real server of llama.cpp, serving the GGUF export of a member."""
    program = os.environ.get("THINKROUTE_LLAMA_SERVER") or shutil.which("llama-server")
    if program is None or not Path(program).exists():
        pytest.skip("no llama-server in PATH; set THINKROUTE_LLAMA_SERVER")
    folder, port = tmp_path_factory.mktemp("llama"), free_port()
    file = folder / "teacher.gguf"
    export_gguf(_member(), file, name="thinkroute-fleet-teacher")
    replaced = {"llama-server": program, "teacher.gguf": str(file), "8000": str(port)}
    command, environment = documented_command("llama.cpp", replaced)
    log, url = folder / "llama-server.log", f"http://127.0.0.1:{port}"
    with running(command, log, environment) as process:
        wait_until_healthy(f"{url}/health", process, log, _LLAMA_SERVER_START_S)
        with gateway("llama.cpp", url, folder) as address:
            yield RealEngine("llama.cpp", url, address, _member(), log)


@pytest.fixture(scope="session", params=["vllm", "llama_server"])
def engine(request: pytest.FixtureRequest) -> RealEngine:
    """Each real server in turn; the ones that are not here are skipped."""
    return request.getfixturevalue(request.param)
