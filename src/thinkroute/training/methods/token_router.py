"""Token routers, baselines of a relay: a probe beside the small model decides for every token who writes it.

One harness for two papers. Both read a reference answer of the large model through the small one, label the positions where
the small one's likeliest token is another, and fit a probe (`training.probe`) on what the small model knows there:

- *CITER* (arXiv 2502.01976): the last hidden state.
- *R2R* (arXiv 2505.21600): hidden state, embedding of the likeliest token, its hundred largest logits.

Serving is greedy and in-process: a gateway cannot see hidden states. Every token whose score is above the threshold is
the large model's. The threshold is the quantile of scores on the reference texts that gives the wanted share.

Deviations: references are the large model's own answers, so CITER's third case (both wrong, decided by a rollout) never
comes up and one iteration is all there is. R2R's judge of whether two sentences differ in meaning is left out: in the
fleet's closed language another token says something else. On natural text that judge is half of the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.evaluation.relay import Answers
from thinkroute.fleet import shipped
from thinkroute.programs.direct import direct
from thinkroute.programs.protocol import Call
from thinkroute.training.batch import Row, collate, pack
from thinkroute.training.learner import FleetLearner, Learner
from thinkroute.training.methods.relay import grade
from thinkroute.training.methods.relay_judge import BatchBench
from thinkroute.training.probe import Probe, fit_probe
from thinkroute.training.rollout import Attempt, roll_out
from thinkroute.training.samplers import Sampler
from thinkroute.training.tasks import Item, Task
from thinkroute.training.trajectory import Span, Trajectory
from thinkroute.types import Arm

if TYPE_CHECKING:
    from thinkroute.training.assemble import Run
    from thinkroute.training.settings import RelayConfig

RouterName = Literal["CITER", "R2R"]
_TOP_LOGITS = 100
QUESTIONS = 400
"""Questions a token router learns from."""
_TOKENS_PER_BATCH = 16_384
_GREEDY = {"temperature": 0}


@dataclass(frozen=True, slots=True)
class TokenRouter:
    """A fitted probe and its threshold."""

    name: RouterName
    probe: Probe
    threshold: float
    positives: float
    """Share of positions labelled as the large model's."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What a token router did with every question."""

    quality: list[float]
    student_tokens: list[int]
    teacher_tokens: list[int]


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models, as modules and behind one sampler."""

    arm: Arm
    student: Learner
    teacher: Learner
    sampler: Sampler
    task: Task
    vocabulary: Vocabulary
    most_tokens: int = 128


def fit(name: RouterName, pair: Pair, items: Sequence[Item], share: float, *, seed: int = 0) -> TokenRouter:
    """Label the large model's answers to these questions, fit the probe, set its threshold for a teacher share."""
    answers = _references(pair, items)
    features: list[Tensor] = []
    labels: list[bool] = []
    for answer in answers:
        features_TF, likeliest = _read(name, pair, answer)
        wanted = [likely != token for likely, token in zip(likeliest, answer.response_ids, strict=True)]
        features.append(features_TF)
        labels += wanted
    features_NF, labels_N = torch.cat(features), torch.tensor(labels, dtype=torch.float32)
    probe = fit_probe(features_NF, labels_N, seed=seed)
    with torch.no_grad():
        threshold = float(torch.quantile(probe(features_NF), 1.0 - share))
    return TokenRouter(name, probe, threshold, float(labels_N.mean()))


def _references(pair: Pair, items: Sequence[Item]) -> list[Trajectory]:
    teacher, effort = pair.arm.models[1], pair.arm.effort
    attempts = [
        Attempt(item.messages, direct(teacher, effort, pair.most_tokens), None, _GREEDY) for item in items
    ]
    return roll_out(attempts, pair.sampler)


def _read(name: RouterName, pair: Pair, answer: Trajectory) -> tuple[Tensor, list[int]]:
    """Features at every position of an answer, and the small model's likeliest token there."""
    batch = collate([Row(answer)], pair.arm.models[0])
    begin = len(answer.prompt_ids) - 1
    with torch.no_grad():
        hidden_TF = pair.student.hidden(batch.ids_BT[:, :-1], batch.real_BT)[0, begin:]
        logits_TV = pair.student.logits(hidden_TF)
    likeliest_T = logits_TV.argmax(dim=-1)
    return _features(name, pair, hidden_TF, logits_TV), [int(token_id) for token_id in likeliest_T]


def _features(name: RouterName, pair: Pair, hidden_NF: Tensor, logits_NV: Tensor) -> Tensor:
    if name == "CITER":
        return hidden_NF
    embedding = next(p for key, p in pair.student.module.named_parameters() if "embed_tokens" in key)
    top_NK = logits_NV.topk(min(_TOP_LOGITS, logits_NV.shape[-1]), dim=-1).values
    return torch.cat([hidden_NF, embedding.detach()[logits_NV.argmax(dim=-1)], top_NK], dim=-1)


def answer_all(router: TokenRouter, pair: Pair, items: Sequence[Item]) -> Routed:
    """Answer every question token by token, greedily."""
    student, effort = pair.arm.models[0], pair.arm.effort
    prompts = [pair.sampler.prompt_ids(Call(student, item.messages, effort)) for item in items]
    written: list[list[int]] = [[] for _ in items]
    theirs = [0] * len(items)
    running = list(range(len(items)))
    while running:
        rows = [_row(prompts[index], written[index], pair) for index in running]
        ids, routed = _next(router, pair, rows)
        for index, token_id, by_teacher in zip(running, ids, routed, strict=True):
            written[index].append(token_id)
            theirs[index] += by_teacher
        running = [
            index
            for index in running
            if written[index][-1] != pair.vocabulary.end_id and len(written[index]) < pair.most_tokens
        ]
    texts = [
        pair.vocabulary.decode([token for token in ids if token != pair.vocabulary.end_id]) for ids in written
    ]
    return Routed(
        [grade(pair.task, item, text) for item, text in zip(items, texts, strict=True)],
        [len(ids) - taught for ids, taught in zip(written, theirs, strict=True)],
        theirs,
    )


def _row(prompt: Sequence[int], written: Sequence[int], pair: Pair) -> Row:
    return Row(Trajectory(tuple(prompt), (Span((*written, pair.vocabulary.end_id), pair.arm.models[0]),), ""))


def _next(router: TokenRouter, pair: Pair, rows: Sequence[Row]) -> tuple[list[int], list[bool]]:
    """The next token of every row, and whether the large model wrote it."""
    ids: dict[int, int] = {}
    routed: dict[int, bool] = {}
    places = {id(row): place for place, row in enumerate(rows)}
    for packed in pack(rows, _TOKENS_PER_BATCH):
        hidden_BF = _last_hidden(pair.student, packed)
        with torch.no_grad():
            logits_BV = pair.student.logits(hidden_BF)
            scores_B = router.probe(_features(router.name, pair, hidden_BF, logits_BV))
        asks = [row for row, score in zip(packed, scores_B, strict=True) if float(score) > router.threshold]
        answers = iter(_likeliest(pair.teacher, asks))
        for row, logits_V, score in zip(packed, logits_BV, scores_B, strict=True):
            place = places[id(row)]
            routed[place] = float(score) > router.threshold
            ids[place] = next(answers) if routed[place] else int(logits_V.argmax())
    return [ids[place] for place in range(len(rows))], [routed[place] for place in range(len(rows))]


def _last_hidden(learner: Learner, rows: Sequence[Row]) -> Tensor:
    """Hidden states (B, F) where each row's next token is decided; the rows' last token is a place-holder."""
    batch = collate(rows, "")
    with torch.no_grad():
        hidden = learner.hidden(batch.ids_BT[:, :-1], batch.real_BT)
    return hidden[torch.arange(len(rows)), torch.tensor([row.length - 2 for row in rows])]


def _likeliest(learner: Learner, rows: Sequence[Row]) -> list[int]:
    if not rows:
        return []
    with torch.no_grad():
        logits_BV = learner.logits(_last_hidden(learner, rows))
    return [int(token_id) for token_id in logits_BV.argmax(dim=-1)]


def judge_routers(
    run: Run,
    config: RelayConfig,
    bench: BatchBench,
    pool: Sequence[Item],
    ends: tuple[Answers, Answers],
    share: float,
) -> list[dict[str, Any]]:
    """CITER and R2R beside the untrained student, on a part of the questions, at the relay's teacher share."""
    run.watcher.stage("token routers", 0)
    folders = [
        section.directory or shipped.directory(section.fleet or "")
        for section in (config.model, config.teacher)
    ]
    student, teacher = (
        FleetLearner(name, folder) for name, folder in zip(bench.arm.models, folders, strict=True)
    )
    vocabulary = Vocabulary(folders[0] / "tokenizer.json")
    pair = Pair(bench.arm, student, teacher, run.sampler, run.task, vocabulary)
    chosen = range(0, len(bench.items), max(1, len(bench.items) // config.token_routers))
    items = [bench.items[place] for place in chosen]
    low, high = (float(answers.quality_Q[list(chosen)].mean()) for answers in ends)
    names: tuple[RouterName, ...] = ("CITER", "R2R")
    lines: list[dict[str, Any]] = []
    for name in names:
        router = fit(name, pair, pool[:QUESTIONS], share, seed=config.seed)
        routed = answer_all(router, pair, items)
        accuracy, theirs = fmean(routed.quality), sum(routed.teacher_tokens)
        lines.append(
            {
                "policy": name,
                "questions": len(items),
                "accuracy": accuracy,
                "teacher_share": theirs / (theirs + sum(routed.student_tokens)),
                "gap_recovered": (accuracy - low) / (high - low) if high > low else None,
                "labelled": router.positives,
            }
        )
    return lines
