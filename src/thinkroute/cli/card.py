"""The decision card on a terminal: what was served and why, and what each alternative was predicted to cost and gain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thinkroute.cli.console import dollars

if TYPE_CHECKING:
    from rich.table import Table


def card_table(card: dict[str, Any]) -> Table:
    """A table of the card that `thinkroute.gateway.recording.card` made; it fits 80 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    arms: list[dict[str, Any]] = card["alternatives"]
    explored = any(0 < arm["propensity"] < 1 for arm in arms)
    notes = any(arm["reasons"] for arm in arms)
    table = Table(
        title=_title(card),
        caption=_caption(card),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    table.add_column("arm", no_wrap=True, overflow="fold")
    for name in ("P(good)", "think", "answer", "cost", "utility", *(["chance"] if explored else [])):
        table.add_column(name, justify="right", no_wrap=True)
    if notes:
        table.add_column("ruled out because")
    for arm in arms:
        cells = ["→" if arm["chosen"] else "", arm["arm"], *_numbers(arm)]
        cells += [f"{arm['propensity']:.2f}"] if explored else []
        cells += [", ".join(arm["reasons"])] if notes else []
        style = "bold" if arm["chosen"] else "" if arm["allowed"] else "dim"
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _numbers(arm: dict[str, Any]) -> list[str]:
    """Predicted quality ± its uncertainty, thinking and answer tokens, cost and utility."""
    quality = arm["predicted_quality"]
    return [
        "" if quality is None else f"{quality:.2f} ±{arm['predicted_quality_std'] or 0:.2f}",
        _count(arm["predicted_reasoning_tokens"]),
        _count(arm["predicted_answer_tokens"]),
        dollars(arm["predicted_cost_usd"]),
        "" if arm["utility_usd"] is None else f"{arm['utility_usd']:.2g}",
    ]


def _title(card: dict[str, Any]) -> str:
    if card.get("arm_id") is None:
        return f"{card['decision_id']}: {card['status']} ({card.get('error_code')})"
    asked = f"asked {card.get('asked_model')}" + (
        f" at {card['asked_effort']}" if card.get("asked_effort") else ""
    )
    why = ", ".join(card.get("reason_codes", ()))
    return f"{card['decision_id']}: {asked}, served {card['arm_id']} ({why})"


def _caption(card: dict[str, Any]) -> str:
    legs = card.get("legs", [])
    thinking = sum(leg.get("reasoning_tokens", 0) for leg in legs)
    answer = sum(leg["completion_tokens"] for leg in legs) - thinking
    prompt = sum(leg["prompt_tokens"] for leg in legs)
    provenance = ", ".join(dict.fromkeys(leg.get("provenance", "unknown") for leg in legs)) or "none"
    ttft = card.get("ttft_s")
    return (
        _stages(card)
        + _hand_overs(card)
        + _dial(card)
        + (
            f"spent {dollars(card.get('cost_usd'))}: {prompt} prompt + {thinking} thinking + {answer} answer tokens "
            f"({provenance}) in {len(legs)} call(s), {card.get('latency_s', 0.0):.3f} s"
            + (f", first token after {ttft:.3f} s" if ttft is not None else "")
            + f"; router {card.get('router')}, finish {card.get('finish_reason')}, status {card['status']}"
        )
    )


def _hand_overs(card: dict[str, Any]) -> str:
    """The teacher's share of a relay, and one line per command of the student."""
    relay = card.get("relay")
    if not relay:
        return ""
    lines = (
        f"{relay['teacher']} wrote {relay['teacher_share']:.1%} of the tokens "
        f"(asked for {relay['teacher_share_asked']:.1%})\n"
    )
    for each in relay["hand_overs"]:
        error = f" ({each['error']})" if each.get("error") else ""
        lines += (
            f"after {each['after_tokens']} tokens: asked {each['asked_tokens']}, {each['outcome']}{error}"
        )
        if each["granted_tokens"]:
            lines += (
                f", {each['tokens']} tokens for {dollars(each.get('cost_usd'))} in {each['latency_s']:.3f} s"
            )
        lines += "\n"
    return lines


def _dial(card: dict[str, Any]) -> str:
    """What a model that decides for itself was asked, and what was chosen."""
    adaptive = card.get("adaptive")
    if not adaptive:
        return ""
    p, threshold = adaptive.get("p_direct"), adaptive["threshold"]
    chosen = {True: "answered at once", False: "thought", None: "undecided"}[adaptive.get("answered_at_once")]
    asked = "" if p is None else f"P(answers at once) {p:.4f}, "
    return f"{asked}threshold {threshold:g}: {chosen}\n"


def _stages(card: dict[str, Any]) -> str:
    """One line per stage of a cascade: how good its answer was believed to be, and what going on was worth."""
    lines = ""
    for stage in card.get("stages", ()):
        quality, tokens = stage.get("quality"), stage.get("generated_tokens")
        believed = f", P(good) {quality:.2f}" if quality is not None else ""
        ways: dict[str, float] = stage.get("ways_usd") or {}
        on = f", stop {stage['stop_usd']:.2g} against {max(ways.values()):.2g}" if ways else ""
        spent = (
            f", {tokens} tokens for {dollars(stage.get('cost_usd'))}" if tokens is not None else ", streamed"
        )
        error = f" ({stage['error']})" if stage.get("error") else ""
        lines += f"{stage['arm_id']} {stage['outcome']}{error}{believed}{on}{spent}\n"
    return lines


def _count(tokens: float | None) -> str:
    return "" if tokens is None else f"{tokens:.0f}"
