"""Rollouts by Transformers, with the learner's own weights: nothing to push, and exact ids on both sides.

Slow next to a serving engine (`vllm_server`), but it runs wherever the model trains. Behaviour log-probabilities are
recorded from the very logits the tokens were drawn from, one step at a time. Calls that share model and sampling settings
are worked on together; seeds are per batch, so unlike the embedded engine's, a row's tokens depend on who shares its batch.
Frozen models that programs call besides the learner must have its tokenizer: ids are handed over as they are.
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
        rows: Sequences generated at once: what their keys and values take is what memory must have room for.
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
        options = calls[0].options
        if not options.get("logprobs"):
            made = self._draw(calls, prompts, {})
            return [self._tokens.segment(*each) for each in zip(calls, prompts, made, strict=True)]
        recorder = _Recorder(int(options.get("top_logprobs") or 0))
        made = self._draw(calls, prompts, recorder.options())
        segments = [self._tokens.segment(*each) for each in zip(calls, prompts, made, strict=True)]
        return [
            replace(segment, logprobs=self._logprobs(segment.token_ids or (), steps))
            for segment, steps in zip(segments, recorder.rows(), strict=True)
        ]

    def _draw(
        self, calls: Sequence[Call], prompts: Sequence[list[int]], recording: Mapping[str, Any]
    ) -> list[list[int]]:
        """New ids of every row, padded on the right."""
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
                **recording,
                **until,
            )
        return made.sequences[:, width:].tolist()

    def _logprobs(self, kept: Sequence[int], steps: Sequence[_Step]) -> tuple[TokenLogprob, ...]:
        return tuple(
            TokenLogprob(
                self._tokens.decode([token_id]),
                logprob,
                tuple((self._tokens.decode([other]), value) for other, value in best),
            )
            # Steps after a row's end drew padding.
            for token_id, (logprob, best) in zip(kept, steps, strict=False)
        )


_Step = tuple[float, Sequence[tuple[int, float]]]
"""Log-probability of the token that was drawn; the likeliest tokens with theirs, best first."""


class _Recorder:
    """Log-probabilities of the tokens that `generate` draws, taken from each step's scores before they are let go.

    Args:
        top: How many of the likeliest tokens are wanted besides.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._drawn: list[Tensor] = []
        self._best: list[tuple[Tensor, Tensor]] = []

    def options(self) -> dict[str, Any]:
        """What `generate` must be told for this."""
        import transformers

        criteria = cast("Any", transformers).StoppingCriteriaList([self])
        return {"output_scores": True, "stopping_criteria": criteria}

    def __call__(self, ids_BT: Tensor, scores: Sequence[Tensor], **_: Any) -> Tensor:
        """A stopping criterion that stops nothing: it is what sees a step's scores once a token is drawn from them."""
        logp_BV = torch.log_softmax(scores[-1].float(), dim=-1)
        self._drawn.append(logp_BV.gather(1, ids_BT[:, -1:]).squeeze(1))
        values_BK, ids_BK = logp_BV.topk(self._top)
        self._best.append((ids_BK, values_BK))
        # Transformers keeps the scores of all steps to the end: 160 GB for 64 answers of 4,096 tokens out of 152k. Nobody
        # reads them again, so what they hold is given back.
        scores[-1].data = scores[-1].new_empty(0)
        return torch.zeros(len(ids_BT), dtype=torch.bool, device=ids_BT.device)

    def rows(self) -> list[list[_Step]]:
        """What was recorded, by rows and then by steps."""
        drawn_BT = _listed(self._drawn)
        ids_BTK = _listed([ids_BK for ids_BK, _ in self._best])
        values_BTK = _listed([values_BK for _, values_BK in self._best])
        return [
            [
                (logprob, list(zip(ids_K, values_K, strict=True)))
                for logprob, ids_K, values_K in zip(*row, strict=True)
            ]
            for row in zip(drawn_BT, ids_BTK, values_BTK, strict=True)
        ]


def _listed(steps: Sequence[Tensor]) -> Any:
    """Tensors of rows (B, …), one per step, as lists by rows and then by steps."""
    return cast("Any", torch.stack(list(steps), dim=1)).tolist()


def _shared(call: Call) -> Mapping[str, Any]:
    options = {name: value for name, value in sorted(call.options.items()) if name != "seed"}
    return {"model": call.model, "until": (call.until_thinking_end, call.until_text), **options}
