"""Rollouts by Transformers, with the learner's own weights: nothing to push, and exact ids on both sides.

Slow next to a serving engine, but it runs wherever the model trains. Behaviour log-probabilities are recorded from the
very logits the tokens were drawn from. Calls that share model and sampling settings are worked on together; seeds are
per batch, so unlike the embedded engine's, a row's tokens depend on who shares its batch. Frozen models that programs call
besides the learner must have its tokenizer: ids are handed over as they are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from thinkroute.errors import UnknownModel
from thinkroute.programs.asides import Asides
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
        others: Frozen models by the names that programs call them by.
        rows: Sequences generated at once.
    """

    def __init__(
        self,
        path: str,
        learner: HuggingFaceLearner,
        *,
        others: Mapping[str, HuggingFaceLearner] | None = None,
        rows: int = 64,
    ) -> None:
        import transformers

        self.model = learner.name
        self._models = {**(others or {}), self.model: learner}
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
        opens_itself = call.prefix_text.lstrip().startswith("<think>")
        if call.effort.level in ("on", "off") and not opens_itself:
            settings["enable_thinking"] = call.effort.level == "on"
        text = self._tokenizer.apply_chat_template(list(call.messages), **settings)
        prefix: list[int] = []
        for segment in call.prefix:
            if segment.token_ids is not None and segment.owner != FORCED:
                prefix += segment.token_ids
            else:
                prefix += self.encode(segment.text)
        return self.encode(text) + (prefix if call.without is None else self._stripped(prefix, call.without))

    def _stripped(self, ids: Sequence[int], asides: Asides) -> list[int]:
        """The ids without commands; encoded again where a command does not begin and end with a token."""
        kept = asides.kept([self._tokenizer.decode([token_id]) for token_id in ids])
        if kept is None:
            return self.encode(asides.removed(self._tokenizer.decode(ids)))
        return [ids[place] for place in kept]

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
        pad = self._tokenizer.pad_token_id or 0
        ids_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
        real_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        temperature = float(first.options.get("temperature") or 0.0)
        torch.manual_seed(int(first.options.get("seed") or 0))  # pyright: ignore[reportUnknownMemberType]
        ends = [self._tokenizer.eos_token_id, *(self._close_ids if first.until_thinking_end else ())]
        # Texts of several tokens are looked for by Transformers itself; it needs the tokenizer for that.
        until = {"stop_strings": [first.until_text], "tokenizer": self._tokenizer} if first.until_text else {}
        learner.module.eval()
        with torch.no_grad():
            made: Any = learner.model.generate(
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
                **until,
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
        if call.until_text and (end := self._place_of(call.until_text, kept)) is not None:
            kept, stop, finish = kept[: end + 1], end, "text_end"
        if stop is not None and call.until_thinking_end and kept[-1] in self._close_ids:
            finish = "thinking_end"
        logprobs = self._logprobs(call, kept, scores, row) if call.options.get("logprobs") else None
        shown = kept[:-1] if finish == "stop" else kept
        return Segment(
            self._tokenizer.decode(shown),
            call.model,
            finish,
            tuple(kept),
            logprobs,
            Usage(len(prompt), len(kept), self._reasoning(kept), provenance="counted"),
            thinking_closed=self._closed([*prompt, *kept]),
        )

    def _place_of(self, text: str, ids: Sequence[int]) -> int | None:
        """The token with which a text is complete; None where it does not occur."""
        place = bisect_left(
            range(len(ids)), True, key=lambda last: text in self._tokenizer.decode(ids[: last + 1])
        )
        return place if place < len(ids) else None

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
    options = {name: value for name, value in sorted(call.options.items()) if name != "seed"}
    return {"model": call.model, "until": (call.until_thinking_end, call.until_text), **options}
