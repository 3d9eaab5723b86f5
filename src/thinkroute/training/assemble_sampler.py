"""What generates in a run on a checkpoint: Transformers where it trains, vLLM servers, or one for each model.

Owns turning the `model` and `teacher` sections into a sampler. The embedded fleet needs no choice: see `assemble`.
"""

from __future__ import annotations

from pathlib import Path

from thinkroute.errors import ConfigError
from thinkroute.training.chat_tokens import ChatTokens
from thinkroute.training.huggingface import TransformersSampler
from thinkroute.training.learner import HuggingFaceLearner
from thinkroute.training.methods.relay_run import TEACHER
from thinkroute.training.samplers import Sampler, SamplerByModel
from thinkroute.training.settings import AnyConfig, ModelSection, RelayConfig
from thinkroute.training.vllm_sampler import VllmSampler, WeightsFolder
from thinkroute.training.vllm_server import Address


def checkpoint_sampler(config: AnyConfig, output: Path, learner: HuggingFaceLearner, seats: int) -> Sampler:
    """The sampler of a checkpoint under training, and of the frozen model that programs call besides.

    Args:
        config: Names the checkpoint.
        output: The run's folder.
        learner: The checkpoint.
        seats: Responses that are written at once, here or by a server.

    Raises:
        ConfigError: a server cannot be used, or the teacher is no checkpoint.
        EngineError: a server cannot be reached.
    """
    section = config.model
    assert section.path is not None  # noqa: S101 - only checkpoints come here
    tokens = ChatTokens(section.path)
    teacher = config.teacher if isinstance(config, RelayConfig) else None
    frozen = {TEACHER: _frozen(teacher)} if teacher and teacher.url is None else {}
    local = TransformersSampler(tokens, learner, others=frozen, rows=seats)
    others: dict[str, Sampler] = dict.fromkeys(frozen, local)
    if teacher and teacher.url is not None:
        others = {TEACHER: VllmSampler(tokens, _address(TEACHER, teacher, "teacher", seats))}
    if section.url is None:
        return SamplerByModel(local, others) if others else local
    folder = WeightsFolder(section.weights_folder or output / "server-weights", section.dtype)
    served = VllmSampler(tokens, _address(learner.name, section, "model", seats), folder)
    # Whatever the server was started with: from here on it is the learner, or the run ends before it begins.
    served.load(learner.weights())
    return SamplerByModel(served, others) if others else served


def _frozen(section: ModelSection) -> HuggingFaceLearner:
    if section.path is None:
        raise ConfigError(
            "a checkpoint needs a checkpoint as its teacher: set teacher.path or teacher.url", param="teacher"
        )
    return HuggingFaceLearner(section.path, device=section.device, dtype=section.dtype)


def _address(model: str, section: ModelSection, name: str, seats: int) -> Address:
    assert section.url is not None  # noqa: S101 - asked before
    return Address(model, section.url, section.upstream_name, seats, section.request_timeout_s, name)
