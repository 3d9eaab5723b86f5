"""Rollouts by a vLLM server over HTTP: exact ids both ways, with the log-probabilities the tokens were drawn with.

On-policy: `load` writes the learner's weights to a folder and has the server take them before it generates again, so what it
answers is the learner's as it is now; the server's own precision is the only difference, and `ratio_error` in the metrics
shows it. A frozen model (a teacher) is never given weights.

Programs, prompts and the end of a segment are those of every other sampler. Seeds are per call, but a server's arithmetic
depends on what it works on at the same time: unlike the embedded engine's, its answers are not bit-equal from run to run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinkroute.errors import EngineProtocolError, InvalidRequest, UnknownModel, UnsupportedRequest
from thinkroute.programs.protocol import Call, Segment, TokenLogprob
from thinkroute.training.chat_tokens import MOST_TOKENS, ChatTokens
from thinkroute.training.learner import DtypeName, save_weights
from thinkroute.training.samplers import Weights
from thinkroute.training.vllm_server import Address, Completion, VllmServer
from thinkroute.types import Usage

_PROBE = "<|im_start|>user\nWhat is 12 times 3?<|im_end|>\n<think>\n\n</think>\n\n<call>20</call> It is 36."
_OPTIONS = frozenset({"temperature", "top_p", "seed", "logprobs", "top_logprobs"})


@dataclass(frozen=True, slots=True)
class WeightsFolder:
    """Where the learner's weights are put for its server, which must see them under the same path."""

    path: Path
    dtype: DtypeName = "float32"


class VllmSampler:
    """A model that a server generates with.

    Args:
        tokens: The learner's tokenizer; the server's must be the same.
        address: The server.
        weights: For the model under training; None for a frozen one.

    Raises:
        ConfigError: the server cannot be used for this; the message says how to start it.
        EngineError: it cannot be reached.
    """

    def __init__(self, tokens: ChatTokens, address: Address, weights: WeightsFolder | None = None) -> None:
        self.model = address.model
        self._tokens = tokens
        self._weights = weights
        self._server = VllmServer(address)
        probe_ids = tokens.encode(_PROBE)
        self._server.connect(_PROBE, probe_ids)
        if weights is not None:
            self._server.check_logprobs(probe_ids[:8])

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens written in the text are recognised."""
        return self._tokens.encode(text)

    def prompt_ids(self, call: Call) -> list[int]:
        """The chat template's prompt and the exact ids of the message so far."""
        return self._tokens.prompt_ids(call)

    def load(self, weights: Weights) -> None:
        """Have the server generate with these weights from now on; returns once it does.

        Raises:
            UnsupportedRequest: the model is frozen.
        """
        if self._weights is None:
            raise UnsupportedRequest(f"model {self.model!r} is frozen: its server is never given weights")
        folder = self._weights.path.resolve()
        save_weights(weights, folder / "model.safetensors", self._weights.dtype)
        self._server.reload(folder)

    def generate(self, calls: Sequence[Call]) -> list[Segment]:
        """One segment per call.

        Raises:
            EngineError: the server failed, or did not say exactly what it generated.
            RequestError: another model, a prompt that leaves no room, or an option that no server is told about.
        """
        if strangers := {call.model for call in calls} - {self.model}:
            raise UnknownModel(f"no model {strangers.pop()!r}; known: {self.model}", param="model")
        prompts = [self.prompt_ids(call) for call in calls]
        bodies = [self._body(call, prompt) for call, prompt in zip(calls, prompts, strict=True)]
        began = time.perf_counter()
        asked = [place for place, body in enumerate(bodies) if body["max_tokens"] > 0]
        made = dict(zip(asked, self._server.complete([bodies[place] for place in asked]), strict=True))
        latency_s = time.perf_counter() - began
        return [
            replace(self._segment(call, prompts[place], made[place]), latency_s=latency_s)
            if place in made
            else self._full(call, prompts[place])
            for place, call in enumerate(calls)
        ]

    def _body(self, call: Call, prompt: list[int]) -> dict[str, Any]:
        options = call.options
        if unknown := options.keys() - _OPTIONS:
            raise UnsupportedRequest(f"rollouts by a server know no option {', '.join(sorted(unknown))}")
        body: dict[str, Any] = {
            "prompt": prompt,
            "max_tokens": self._room(call, prompt),
            "temperature": float(options.get("temperature") or 0.0),
            "top_p": float(options.get("top_p") or 1.0),
            # What ends a segment is the same for every sampler, whatever the server's files say.
            "ignore_eos": True,
            "stop_token_ids": self._tokens.end_ids(call),
            "skip_special_tokens": False,
        }
        if "seed" in options:
            body["seed"] = int(options["seed"])
        if call.until_text:
            body["stop"] = [call.until_text]
        if options.get("logprobs"):
            body["logprobs"] = int(options.get("top_logprobs") or 0)
        return body

    def _room(self, call: Call, prompt: Sequence[int]) -> int:
        """Tokens that may be generated; 0 where the message so far fills the server's window."""
        most = call.max_tokens or MOST_TOKENS
        if self._server.window is None:
            return most
        room = max(0, self._server.window - len(prompt))
        if room == 0 and not call.prefix:
            raise InvalidRequest(
                f"a question of {len(prompt)} tokens leaves no room in the window of {self._server.window} of "
                f"model {self.model!r}: start vLLM with a larger --max-model-len"
            )
        return min(most, room)

    def _segment(self, call: Call, prompt: list[int], made: Completion) -> Segment:
        segment = self._tokens.segment(call, prompt, made.ids)
        if made.stopped and segment.finish == "length":
            raise EngineProtocolError(
                f"model {self.model!r}: the server stopped after {segment.text[-40:]!r}, where nothing ends"
            )
        if not call.options.get("logprobs"):
            return segment
        count = int(call.options.get("top_logprobs") or 0)
        entries = tuple(
            TokenLogprob(self._tokens.decode([token_id]), logprob, self._best(top, count))
            # What came after a stop text was cut off, so there may be more of these than ids.
            for token_id, logprob, top in zip(segment.token_ids or (), made.logprobs, made.tops, strict=False)
        )
        return replace(segment, logprobs=entries)

    def _best(self, top: Mapping[int, float], count: int) -> tuple[tuple[str, float], ...]:
        """The likeliest, best first; a server names the drawn token too, wherever it ranks."""
        ranked = sorted(top.items(), key=lambda entry: -entry[1])[:count]
        return tuple((self._tokens.decode([token_id]), logprob) for token_id, logprob in ranked)

    def _full(self, call: Call, prompt: Sequence[int]) -> Segment:
        usage = Usage(len(prompt), 0, 0, provenance="counted")
        before = call.prefix[-1].thinking_closed
        logprobs = () if call.options.get("logprobs") else None
        return Segment("", call.model, "length", (), logprobs, usage, thinking_closed=before)
