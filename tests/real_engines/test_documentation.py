"""What the page about real engines tells users to write is valid; runs without any engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_engines.servers import TRAINING_DOCUMENT, documented, documented_command
from thinkroute.config import load_config, resolve


@pytest.mark.parametrize(
    ("title", "arms"),
    [
        ("vLLM", {"teacher@off", "teacher@on", "teacher-two-call@budget=16", "teacher-prefill@budget=8"}),
        ("vLLM, a Qwen3", {"qwen3-8b@off", "qwen3-8b@on", "qwen3-8b@budget=4096"}),
        ("llama.cpp", {"teacher@budget=8", "teacher-two-call@budget=8", "teacher@off"}),
        ("SGLang", {"qwen3-8b@budget=1024"}),
        ("Ollama", {"qwen3@off", "qwen3@default"}),
    ],
)
def test_a_documented_configuration_offers_the_arms_it_speaks_of(
    title: str, arms: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "thinkroute.yaml"
    path.write_text(documented("yaml", title))
    assert arms <= {arm.id for arm in resolve(load_config(path)).arms}


@pytest.mark.parametrize(("title", "program"), [("vLLM", "vllm"), ("llama.cpp", "llama-server")])
def test_a_documented_command_can_be_started_on_another_port(title: str, program: str) -> None:
    command, environment = documented_command(title, {"8000": "9"})
    assert command[0] == program
    assert command[command.index("--port") + 1] == "9"
    assert all(name.isupper() for name in environment)


def test_the_documented_server_for_rollouts_can_be_given_weights() -> None:
    command, environment = documented_command("vLLM for rollouts", {"8000": "9"}, TRAINING_DOCUMENT)
    assert environment == {"VLLM_SERVER_DEV_MODE": "1"}
    assert command[command.index("--logprobs-mode") + 1] == "processed_logprobs"


def test_a_block_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match="no yaml block"):
        documented("yaml", "Something else")
