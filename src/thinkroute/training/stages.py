"""The stages of AdaptThink, AdaCoT and fusion: what is sampled, in which order what is trained, what is found out besides.

Owns turning a method's part of a training file into its objects. The relay's stages are in `methods.relay_run`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

from thinkroute.catalog import family_named
from thinkroute.errors import ConfigError
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import LEVELS
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.training.batch import Row
from thinkroute.training.learner import FleetLearner
from thinkroute.training.losses import PolicyOptions
from thinkroute.training.measure import Answered, budget_curve, measure
from thinkroute.training.methods.adacot import (
    AdaCoT,
    Labels,
    Orders,
    Penalties,
    cells_at_optimum,
    thinks_at_optimum,
)
from thinkroute.training.methods.adaptthink import AdaptThink
from thinkroute.training.methods.fusion import Flags, Fusion, as_asked
from thinkroute.training.optimise import OptimiserOptions
from thinkroute.training.policy import PolicyTrainer, RolloutOptions
from thinkroute.training.reference import ReferenceTable, Sampling
from thinkroute.training.settings import (
    AdaCoTConfig,
    AdaptThinkConfig,
    FusionConfig,
    OptimiserSection,
    ReferenceSection,
    RolloutSection,
    TrainingConfig,
)
from thinkroute.training.supervised import SupervisedOptions, SupervisedTrainer
from thinkroute.training.tasks import FleetTask, Item
from thinkroute.wire.soft_switch import NO_THINK, THINK

if TYPE_CHECKING:
    from thinkroute.training.assemble import Parts, Run

BUDGETS = (0, 8, 16, 32, 48, 64, 96, None)
"""Thinking budgets of the curve, in tokens."""
WARM_UP_PARTS: Parts = {
    **dict.fromkeys(
        ("model", "task", "seed", "label_margin", "flipped_labels", "reference", "warm_up", "orders"), True
    ),
    "rollouts": {"most_tokens": True},
}
"""What AdaCoT's warm-up depends on; the penalties, for one, are none of it."""


def _tokens_per_batch(config: TrainingConfig) -> int:
    """Padded tokens of supervised examples worked on at once: on a CPU what fits its cache (benchmarks/training_speed.py)."""
    return 2048 if config.model.fleet else 16_384


def _optimiser(section: OptimiserSection, steps: int) -> OptimiserOptions:
    return OptimiserOptions(**section.model_dump(), steps=steps)


def _rollouts(section: RolloutSection, seed: int) -> RolloutOptions:
    return RolloutOptions(
        seed,
        section.items_per_step,
        section.temperature,
        section.epochs,
        section.updates,
        section.tokens_per_batch,
    )


def run_adaptthink(run: Run, config: AdaptThinkConfig) -> dict[str, object]:
    """Reference samples, then reinforcement."""
    pool = run.task.pool(config.task.questions, config.task.seed, config.task.split)
    table = run.reference("think", run.openings.think, config.reference)
    run.fill(table, pool, "thinking")
    method = AdaptThink(
        run.sampler.model,
        run.task,
        run.openings,
        table,
        config.delta,
        config.rollouts.group,
        config.forced,
        config.thinking,
        config.rollouts.temperature,
        config.rollouts.most_tokens,
        config.rollouts.most_tokens_direct or config.rollouts.most_tokens,
    )
    options = PolicyOptions(
        advantage=config.advantage,
        ratio=config.ratio,
        aggregation="sequence_mean",
        clip_low=config.clip,
        clip_high=config.clip,
        kl_coefficient=config.kl,
    )
    trainer = PolicyTrainer(
        run.learner,
        run.sampler,
        method,
        pool,
        options=options,
        rollouts=_rollouts(config.rollouts, config.seed),
        optimiser=_optimiser(config.optimiser, config.steps),
        reference=copy.deepcopy(run.learner) if config.kl else None,
    )
    run.train(trainer, config.steps, "reinforce")
    return {}


def audit(run: Run, config: AdaCoTConfig, pool: list[Item], name: str) -> Labels:
    """Labels of the questions, from the model as it is now."""
    think = run.reference(f"{name}-think", run.openings.think, config.reference)
    direct = run.reference(f"{name}-direct", run.openings.no_think, config.reference)
    run.fill(think, pool, "thinking")
    run.fill(direct, pool, "direct")
    orders = Orders(config.orders.always, config.orders.never)
    return Labels(think, direct, config.label_margin, config.flipped_labels, orders)


def _introduce_flags(run: Run, seed: int) -> None:
    """Soft switches for a shipped member that has never seen any; a run's model may have learned them."""
    if run.config.model.directory is not None or not isinstance(run.learner, FleetLearner):
        return
    if not shipped.member(run.learner.name).switches:
        run.learner.introduce(
            [token for flag in (THINK, NO_THINK) for token in run.sampler.encode(f" {flag}")], seed
        )


def run_adacot(run: Run, config: AdaCoTConfig) -> dict[str, object]:
    """Labels, warm-up, reinforcement; what comes out is held against the threshold rule."""
    pool = run.task.pool(config.task.questions, config.task.seed, config.task.split)
    labels = audit(run, config, pool, "audit")
    held_out: list[Item] = []
    if isinstance(run.task, FleetTask):
        held_out = run.task.by_level(config.evaluate, seed=1)
    held_out_labels = audit(run, config, held_out, "held-out")
    if config.orders.share:
        _introduce_flags(run, config.seed)
    if config.warm_up.steps:
        _warm_up(run, config, pool, labels)
    pool = labels.orders.given(pool, config.orders.share, config.seed)
    warmed = _decisions(config, _measured(run, held_out))
    hard = [item for item in pool if item.level in config.reinforced_levels]
    if config.reinforced_levels and not hard:
        raise ConfigError(
            f"no question has a level among {config.reinforced_levels}", param="reinforced_levels"
        )
    method = AdaCoT(
        run.sampler.model,
        run.task,
        run.openings,
        labels,
        Penalties(**config.penalties.model_dump()),
        config.masks_decision,
        config.rollouts.group,
        config.rollouts.temperature,
        config.rollouts.most_tokens,
    )
    options = PolicyOptions(
        advantage="gae", ratio="token", aggregation="token_mean", trace=config.trace, whiten=True,
        entropy_coefficient=config.entropy,
    )  # fmt: skip
    trainer = PolicyTrainer(
        run.learner,
        run.sampler,
        method,
        hard or pool,
        options=options,
        rollouts=_rollouts(config.rollouts, config.seed),
        optimiser=replace(
            _optimiser(config.optimiser, config.steps), value_learning_rate=config.value_learning_rate
        ),
    )
    run.train(trainer, config.steps, "reinforce")
    if not held_out:
        return {}
    rows = _measured(run, held_out)
    found = _decisions(config, rows) | {f"warmed_up_{name}": value for name, value in warmed.items()}
    if not config.reinforced_levels:  # else the optimum over all levels was never aimed at
        found |= _oracle(run, config, held_out, held_out_labels, rows)
    return {"oracle": found}


def _measured(run: Run, items: list[Item]) -> list[Answered]:
    """What the model as it is now answers, left to itself."""
    run.sampler.load(run.learner.weights())
    return measure(items, run.sampler, run.task, run.openings)


def _decisions(config: AdaCoTConfig, rows: Sequence[Answered]) -> dict[str, float]:
    """How often a model thinks, and is right on the levels that are reinforced; nothing where nothing was asked."""
    if not rows:
        return {}
    hard = config.reinforced_levels or LEVELS
    return {
        "thinks": fmean(not row.direct for row in rows),
        "right_hard": fmean(row.correct for row in rows if row.level in hard),
    }


def _oracle(
    run: Run, config: AdaCoTConfig, items: list[Item], labels: Labels, rows: Sequence[Answered]
) -> dict[str, float]:
    """How often the threshold rule would think on unseen questions, given what the trained model can, and whether it does."""
    able = [
        ReferenceTable(None, model="trained", opening=opening, sampling=_sampling(config.reference))
        for opening in (run.openings.think, run.openings.no_think)
    ]
    for table in able:
        run.fill(table, items, "trained")
    penalties = Penalties(**config.penalties.model_dump())
    best = [
        thinks_at_optimum(
            p_think=able[0][item].reward,
            p_direct=able[1][item].reward,
            label=labels[item],
            penalties=penalties,
        )
        for item in items
    ]
    cells = cells_at_optimum(
        items,
        [(able[0][item].reward, able[1][item].reward) for item in items],
        [labels[item] for item in items],
        penalties,
    )
    return {
        "rate": fmean(best),
        "rate_by_cell": fmean(cells),
        "labelled": fmean(labels[item] for item in items),
        "agreement": fmean(wanted != row.direct for wanted, row in zip(best, rows, strict=True)),
    }


def _sampling(section: ReferenceSection) -> Sampling:
    return Sampling(section.samples, section.temperature, section.top_p)


def _warm_up(run: Run, config: AdaCoTConfig, pool: list[Item], labels: Labels) -> None:
    """Imitate right responses in the mode that the label asks for."""
    chosen = pool[: config.warm_up.questions]
    if config.orders.share:
        drawn = run.task.pool(config.orders.warm_up_questions, config.task.seed + 1, config.task.split)
        chosen = [*chosen, *labels.orders.given(drawn, 1.0, config.seed)]
    builder = Fusion(
        run.task,
        run.openings,
        run.end_text,
        as_asked,
        most_tokens=config.rollouts.most_tokens,
    )
    thinks = builder.thinking([item for item in chosen if labels[item]], run.sampler, config.seed)
    answers = builder.direct([item for item in chosen if not labels[item]], run.sampler, config.seed)
    rows = [Row(trajectory) for trajectory in (*thinks, *answers)]
    trainer = SupervisedTrainer(
        run.learner,
        rows,
        # Averaged over a response, the decision of a short answer would weigh five times that of a long thought.
        options=SupervisedOptions(
            config.seed, config.warm_up.examples_per_step, "token_mean", _tokens_per_batch(config)
        ),
        optimiser=_optimiser(config.warm_up.optimiser, config.warm_up.steps),
    )
    run.train(trainer, config.warm_up.steps, "warm-up", run.checkpoint("warm-up", WARM_UP_PARTS))


def _thinking_format(config: TrainingConfig) -> ThinkingFormat:
    """How a budget cuts this model's thoughts."""
    by_format = {"qwen3": "qwen3", "r1": "deepseek-r1"}
    family = family_named("thinkroute-fleet" if config.model.fleet else by_format[config.model.format])
    return ThinkingFormat(family.open_text, family.close_text, family.stop_text)


def run_fusion(run: Run, config: FusionConfig) -> dict[str, object]:
    """Examples of both modes, then fine-tuning; for the fleet the curve of budgets as well."""
    pool = run.task.pool(config.task.questions, config.task.seed, config.task.split)
    Random(f"{config.seed}/modes").shuffle(pool)  # noqa: S311 - reproducible data
    thinking, cut = (round(len(pool) * share) for share in (config.thinking_share, config.cut_share))
    flags = Flags(config.no_flag_share, config.several_flags_share)
    builder = Fusion(
        run.task,
        run.openings,
        run.end_text,
        flags.address,
        config.temperature,
        config.attempts,
        config.most_tokens,
        config.empty_block,
    )
    run.watcher.stage("sampling thoughts", 0)
    levels = config.direct_levels
    direct = [item for item in pool[thinking + cut :] if not levels or item.level in levels]
    examples = [
        *builder.thinking(pool[:thinking], run.sampler, config.seed),
        *builder.cut(
            pool[thinking : thinking + cut],
            run.sampler,
            config.seed,
            _thinking_format(config),
            config.cut_tokens,
        ),
        *builder.direct(direct, run.sampler, config.seed),
    ]
    rows = [Row(each) for each in examples]
    trainer = SupervisedTrainer(
        run.learner,
        rows,
        # As in AdaCoT's warm-up: averaged over a response, the decision of a short answer would drown that of a thought.
        options=SupervisedOptions(
            config.seed, config.examples_per_step, "token_mean", _tokens_per_batch(config)
        ),
        optimiser=_optimiser(config.optimiser, config.steps),
    )
    _introduce_flags(run, config.seed)
    run.train(trainer, config.steps, "fusion")
    if not isinstance(run.task, FleetTask):
        return {}
    items = run.task.by_level(config.evaluate, seed=0)
    points = budget_curve(items, run.sampler, run.task, _thinking_format(config), BUDGETS)
    accuracy, tokens = ([round(point[side], 4) for point in points] for side in (0, 1))
    return {"budgets": {"budget": BUDGETS, "accuracy": accuracy, "tokens": tokens}}
