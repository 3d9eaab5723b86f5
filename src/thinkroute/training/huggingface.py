"""Rollouts by Transformers, with the learner's own weights: nothing to push, and exact ids on both sides.

Slow next to a serving engine (`vllm_server`), but it runs wherever the model trains. Behaviour log-probabilities are
recorded from the very logits the tokens were drawn from. Calls that share model and sampling settings are worked on
together; seeds are per batch, so unlike the embedded engine's, a row's tokens depend on who shares its batch. Frozen models
that programs call besides the learner must have its tokenizer: ids are handed over as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from thinkroute.errors import UnknownModel
from thinkroute.programs.protocol import Call, Segment, TokenLogprob
from thinkroute.training.chat_tokens import MOST_TOKENS, ChatTokens
from thinkroute.training.learner import HuggingFaceLearner
from thinkroute.training.samplers import Weights


class TransformersSampler:
    """`generate` of the model under training.

    Args:
        tokens: Its tokenizer.
        learner: Whose weights are used.
        others: Frozen models by the names that programs call them by.
        rows: Sequences generated at once.
    """

    def __init__(
        self,
        tokens: ChatTokens,
        learner: HuggingFaceLearner,
        *,
        others: Mapping[str, HuggingFaceLearner] | None = None,
        rows: int = 64,
    ) -> None:
        self.model = learner.name
        self._tokens = tokens
        self._models = {**(others or {}), self.model: learner}
        self._rows = rows

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens written in the text are recognised."""
        return self._tokens.encode(text)

    def prompt_ids(self, call: Call) -> list[int]:
        """The chat template's prompt and the exact ids of the message so far."""
        return self._tokens.prompt_ids(call)

    def load(self, weights: Weights) -> None:
        """Nothing to do: the learner's weights are used where they are."""

    def generate(self, calls: Sequence[Call]) -> list[Segment]:
        """One segment per call, in batches of like calls with prompts of similar length.

        Raises:
            UnknownModel: neither the learner nor one of the others.
        """
        prompts = [self.prompt_ids(call) for call in calls]
        alike: dict[str, list[int]] = {}
        for index, call in enumerate(calls):
            alike.setdefault(repr(_shared(call)), []).append(index)
        segments: dict[int, Segment] = {}
        for indices in alike.values():
            order = sorted(indices, key=lambda index: len(prompts[index]))
            for start in range(0, len(order), self._rows):
                chosen = order[start : start + self._rows]
                made = self._batch([calls[index] for index in chosen], [prompts[index] for index in chosen])
                segments.update(zip(chosen, made, strict=True))
        return [segments[index] for index in range(len(calls))]

    def _batch(self, calls: Sequence[Call], prompts: Sequence[list[int]]) -> list[Segment]:
        first = calls[0]
        if first.model not in self._models:
            raise UnknownModel(f"no model {first.model!r}; known: {', '.join(self._models)}", param="model")
        learner = self._models[first.model]
        device = next(learner.module.parameters()).device
        width = max(map(len, prompts))
        pad = self._tokens.pad_id
        ids_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
        real_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        temperature = float(first.options.get("temperature") or 0.0)
        torch.manual_seed(int(first.options.get("seed") or 0))  # pyright: ignore[reportUnknownMemberType]
        # Texts of several tokens are looked for by Transformers itself; it needs the tokenizer for that.
        tokenizer = self._tokens.tokenizer
        until = {"stop_strings": [first.until_text], "tokenizer": tokenizer} if first.until_text else {}
        learner.module.eval()
        with torch.no_grad():
            made: Any = learner.model.generate(
                ids_BT,
                attention_mask=real_BT,
                max_new_tokens=max(call.max_tokens or MOST_TOKENS for call in calls),
                do_sample=temperature > 0,
                temperature=temperature or None,
                top_p=float(first.options.get("top_p", 1.0)) if temperature else None,
                top_k=0 if temperature else None,
                eos_token_id=self._tokens.end_ids(first),
                pad_token_id=pad,
                return_dict_in_generate=True,
                output_scores=True,
                **until,
            )
        new_BT = cast("list[list[int]]", made.sequences[:, width:].tolist())
        return [
            self._segment(call, prompts[row], new_BT[row], made.scores, row) for row, call in enumerate(calls)
        ]

    def _segment(
        self, call: Call, prompt: list[int], ids: list[int], scores: Sequence[Tensor], row: int
    ) -> Segment:
        segment = self._tokens.segment(call, prompt, ids)
        if not call.options.get("logprobs"):
            return segment
        return replace(segment, logprobs=self._logprobs(call, segment.token_ids or (), scores, row))

    def _logprobs(
        self, call: Call, kept: Sequence[int], scores: Sequence[Tensor], row: int
    ) -> tuple[TokenLogprob, ...]:
        count = int(call.options.get("top_logprobs") or 0)
        entries: list[TokenLogprob] = []
        for place, token_id in enumerate(kept):
            logp_V = torch.log_softmax(scores[place][row].float(), dim=-1)
            best = logp_V.topk(count) if count else None
            top = (
                tuple((self._tokens.decode([int(i)]), float(v)) for v, i in zip(*best, strict=True))
                if best
                else ()
            )
            entries.append(TokenLogprob(self._tokens.decode([token_id]), float(logp_V[token_id]), top))
        return tuple(entries)


def _shared(call: Call) -> Mapping[str, Any]:
    options = {name: value for name, value in sorted(call.options.items()) if name != "seed"}
    return {"model": call.model, "until": (call.until_thinking_end, call.until_text), **options}
