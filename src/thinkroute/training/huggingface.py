"""Rollouts by Transformers, with the learner's own weights: nothing to push, and exact ids on both sides.

Slow next to a serving engine, but it runs wherever the model trains. Behaviour log-probabilities are recorded from the
very logits the tokens were drawn from. Calls of one batch must share their sampling settings; seeds are per batch, so
unlike the embedded engine's, a row's tokens depend on who shares its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from thinkroute.errors import UnsupportedRequest
from thinkroute.programs.protocol import Call, Segment, SegmentFinish, TokenLogprob
from thinkroute.training.learner import HuggingFaceLearner
from thinkroute.training.samplers import Weights
from thinkroute.types import FORCED, Usage

_MOST_TOKENS = 1024


class TransformersSampler:
    """`generate` of the model under training.

    Args:
        path: Where the tokenizer lies.
        learner: Whose weights are used.
        rows: Sequences generated at once.
    """

    def __init__(self, path: str, learner: HuggingFaceLearner, *, rows: int = 64) -> None:
        import transformers

        self.model = learner.name
        self._learner = learner
        self._tokenizer: Any = cast("Any", transformers).AutoTokenizer.from_pretrained(path)
        self._rows = rows
        self._close_ids = self.encode("</think>")
        self._open_ids = self.encode("<think>")

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens written in the text are recognised."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def prompt_ids(self, call: Call) -> list[int]:
        """The chat template's prompt and the exact ids of the message so far."""
        settings: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False}
        if call.effort.level in ("on", "off") and not call.prefix:
            settings["enable_thinking"] = call.effort.level == "on"
        text = self._tokenizer.apply_chat_template(list(call.messages), **settings)
        ids = self.encode(text)
        for segment in call.prefix:
            if segment.token_ids is not None and segment.owner != FORCED:
                ids += segment.token_ids
            else:
                ids += self.encode(segment.text)
        return ids

    def load(self, weights: Weights) -> None:
        """Nothing to do: the learner's weights are used where they are."""

    def generate(self, calls: Sequence[Call]) -> list[Segment]:
        """One segment per call, in batches of prompts of similar length."""
        prompts = [self.prompt_ids(call) for call in calls]
        order = sorted(range(len(calls)), key=lambda index: len(prompts[index]))
        segments: dict[int, Segment] = {}
        for start in range(0, len(order), self._rows):
            chosen = order[start : start + self._rows]
            made = self._batch([calls[index] for index in chosen], [prompts[index] for index in chosen])
            segments.update(zip(chosen, made, strict=True))
        return [segments[index] for index in range(len(calls))]

    def _batch(self, calls: Sequence[Call], prompts: Sequence[list[int]]) -> list[Segment]:
        first = calls[0]
        if any(_shared(call) != _shared(first) for call in calls):
            raise UnsupportedRequest("calls of one batch must share their sampling settings")
        device = next(self._learner.module.parameters()).device
        width = max(map(len, prompts))
        pad = self._tokenizer.pad_token_id or 0
        ids_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
        real_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        temperature = float(first.options.get("temperature") or 0.0)
        torch.manual_seed(int(first.options.get("seed") or 0))  # pyright: ignore[reportUnknownMemberType]
        ends = [self._tokenizer.eos_token_id, *(self._close_ids if first.until_thinking_end else ())]
        self._learner.module.eval()
        with torch.no_grad():
            made: Any = self._learner.model.generate(
                ids_BT,
                attention_mask=real_BT,
                max_new_tokens=max(call.max_tokens or _MOST_TOKENS for call in calls),
                do_sample=temperature > 0,
                temperature=temperature or None,
                top_p=float(first.options.get("top_p", 1.0)) if temperature else None,
                top_k=0 if temperature else None,
                eos_token_id=ends,
                pad_token_id=pad,
                return_dict_in_generate=True,
                output_scores=True,
            )
        new_BT = cast("list[list[int]]", made.sequences[:, width:].tolist())
        return [
            self._segment(call, prompts[row], new_BT[row], made.scores, row, ends)
            for row, call in enumerate(calls)
        ]

    def _segment(
        self,
        call: Call,
        prompt: list[int],
        ids: list[int],
        scores: Sequence[Tensor],
        row: int,
        ends: list[int],
    ) -> Segment:
        length = min(len(ids), call.max_tokens or _MOST_TOKENS)
        stop = next((place for place, token_id in enumerate(ids[:length]) if token_id in ends), None)
        kept = ids[: length if stop is None else stop + 1]
        finish: SegmentFinish = "length" if stop is None else "stop"
        if stop is not None and call.until_thinking_end and kept[-1] in self._close_ids:
            finish = "thinking_end"
        logprobs = self._logprobs(call, kept, scores, row) if call.options.get("logprobs") else None
        shown = kept[:-1] if finish == "stop" else kept
        return Segment(
            self._tokenizer.decode(shown),
            self.model,
            finish,
            tuple(kept),
            logprobs,
            Usage(len(prompt), len(kept), self._reasoning(kept), provenance="counted"),
            thinking_closed=self._closed([*prompt, *kept]),
        )

    def _logprobs(
        self, call: Call, kept: Sequence[int], scores: Sequence[Tensor], row: int
    ) -> tuple[TokenLogprob, ...]:
        count = int(call.options.get("top_logprobs") or 0)
        entries: list[TokenLogprob] = []
        for place, token_id in enumerate(kept):
            logp_V = torch.log_softmax(scores[place][row].float(), dim=-1)
            best = logp_V.topk(count) if count else None
            top = (
                tuple((self._tokenizer.decode([int(i)]), float(v)) for v, i in zip(*best, strict=True))
                if best
                else ()
            )
            entries.append(TokenLogprob(self._tokenizer.decode([token_id]), float(logp_V[token_id]), top))
        return tuple(entries)

    def _closed(self, ids: Sequence[int]) -> bool:
        places = [
            place for place, token_id in enumerate(ids) if token_id in (*self._open_ids, *self._close_ids)
        ]
        return not places or ids[places[-1]] in self._close_ids

    def _reasoning(self, ids: Sequence[int]) -> int:
        place = next((place for place, token_id in enumerate(ids) if token_id in self._close_ids), 0)
        return max(0, place - 1)


def _shared(call: Call) -> Mapping[str, Any]:
    return {"until": call.until_thinking_end, **{k: v for k, v in call.options.items() if k != "seed"}}
