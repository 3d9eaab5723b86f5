"""What a relay may cost at most, before anything has been generated."""

from __future__ import annotations

from thinkroute.config import Resolved
from thinkroute.types import Arm

_FOREIGN_TOKENS = 8
"""Most tokens that a token of one tokenizer becomes in another. Nothing guarantees it, so it is generous: tokens have
about four characters, and no tokenizer makes more tokens than there are bytes."""


def relay_bounds(arm: Arm, resolved: Resolved, prompt_tokens_most: int) -> tuple[float, float]:
    """Dollars of the prompts, and of each generated token, at most.

    Every leg is billed the prompt and whatever had been generated, which the cap bounds. Both models must have a price.
    """
    student, teacher = (resolved.models[name] for name in arm.models)
    legs = (resolved.config.relay.most_calls + 1, resolved.config.relay.most_calls)
    same_tokenizer = student.family.name.startswith("thinkroute-fleet") and (
        teacher.family.name.startswith("thinkroute-fleet")
    )
    prompt_usd = reread_usd = 0.0
    dearest_usd = 0.0
    for model, count in zip((student, teacher), legs, strict=True):
        if model.price is None:
            raise ValueError(f"model {model.name!r} has no price")
        prompt_usd += count * model.price.cost_usd(prompt_tokens_most, 0)
        reread_usd += count * model.price.cost_usd(1 if same_tokenizer else _FOREIGN_TOKENS, 0)
        dearest_usd = max(dearest_usd, model.price.cost_usd(0, 1))
    return prompt_usd, dearest_usd + reread_usd
