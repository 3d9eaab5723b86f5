"""Checkpoints through Transformers alone: every method and format, adapters, and what is recorded of a rollout.

The checkpoint is the fleet's base, as Transformers loads it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

from thinkroute.fleet import shipped
from thinkroute.programs.protocol import Call, Segment, TokenLogprob
from thinkroute.training import assemble, settings
from thinkroute.training.assemble import Watcher, execute
from thinkroute.training.assemble_sampler import checkpoint_sampler
from thinkroute.training.chat_tokens import ChatTokens
from thinkroute.training.huggingface import TransformersSampler
from thinkroute.training.learner import HuggingFaceLearner, fingerprint
from thinkroute.training.measure import Measurement
from thinkroute.training.tasks import FleetTask
from thinkroute.types import Effort

BASE = str(shipped.directory("base"))
TOKENS = ChatTokens(BASE)
QUESTIONS = FleetTask(("relations",), (1.0, 0.0, 0.0, 0.0, 0.0)).pool(40, 0)
OF_TWO_LENGTHS = FleetTask(("relations",), (0.5, 0.0, 0.5, 0.0, 0.0)).pool(12, 0)
R1_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def learner() -> HuggingFaceLearner:
    return HuggingFaceLearner(BASE)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions with an answer to look for and, for fusion, one to learn."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [{"question": q.question, "answer": q.reference, "direct": q.direct} for q in QUESTIONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def inside_a_block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base as distilled R1 models come: the template opens the thinking block, and another token ends a turn."""
    folder = tmp_path_factory.mktemp("checkpoint") / "r1"
    shutil.copytree(BASE, folder)
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8").replace("<|im_end|>", R1_END)
        (folder / name).write_text(text, encoding="utf-8")
    template = folder / "chat_template.jinja"
    opened = template.read_text(encoding="utf-8").replace("assistant\\n' }}", "assistant\\n<think>\\n' }}", 1)
    template.write_text(opened, encoding="utf-8")
    return folder


def calls(count: int, **options: Any) -> list[Call]:
    return [
        Call("base", item.messages, Effort("default"), max_tokens=80, options={"seed": 7, **options})
        for item in OF_TWO_LENGTHS[:count]
    ]


class Watched:
    """`generate`, and what it was given and gave."""

    def __init__(self, learner: HuggingFaceLearner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Any] = []
        self.rows: list[int] = []
        generate = learner.model.generate

        def watched(ids_BT: torch.Tensor, **settings: Any) -> Any:
            self.rows.append(len(ids_BT))
            self.made.append(generate(ids_BT, **settings))
            return self.made[-1]

        monkeypatch.setattr(learner.model, "generate", watched)


def kept_to_the_end(asked: Sequence[Call], learner: HuggingFaceLearner) -> list[Segment]:
    """Segments whose log-probabilities are computed from all scores at once, kept by Transformers."""
    prompts = [TOKENS.prompt_ids(call) for call in asked]
    width, options = max(map(len, prompts)), asked[0].options
    temperature = options["temperature"]
    torch.manual_seed(7)  # pyright: ignore[reportUnknownMemberType]
    learner.module.eval()
    made: Any = learner.model.generate(
        torch.tensor([[TOKENS.pad_id] * (width - len(ids)) + ids for ids in prompts]),
        attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
        max_new_tokens=80,
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_p=options.get("top_p", 1.0) if temperature else None,
        top_k=0 if temperature else None,
        eos_token_id=TOKENS.end_ids(asked[0]),
        pad_token_id=TOKENS.pad_id,
        return_dict_in_generate=True,
        output_scores=True,
    )
    segments: list[Segment] = []
    for row, call in enumerate(asked):
        segment = TOKENS.segment(call, prompts[row], made.sequences[row, width:].tolist())
        entries: list[TokenLogprob] = []
        for place, token_id in enumerate(segment.token_ids or ()):
            logp_V = torch.log_softmax(made.scores[place][row], dim=-1)
            top = [(TOKENS.decode([int(i)]), float(v)) for v, i in zip(*logp_V.topk(3), strict=True)]
            entries.append(TokenLogprob(TOKENS.decode([token_id]), float(logp_V[token_id]), tuple(top)))
        segments.append(replace(segment, logprobs=tuple(entries)))
    return segments


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.6, 0.9)])
def test_recorded_logprobs_are_those_of_the_distribution_drawn_from(
    temperature: float, top_p: float, learner: HuggingFaceLearner
) -> None:
    asked = calls(5, temperature=temperature, top_p=top_p, logprobs=True, top_logprobs=3)
    made = TransformersSampler(TOKENS, learner).generate(asked)
    # Rows of a batch are ordered by length, and seeds are a batch's.
    order = sorted(range(5), key=lambda index: len(TOKENS.prompt_ids(asked[index])))
    expected = kept_to_the_end([asked[index] for index in order], learner)
    assert len({len(segment.token_ids or ()) for segment in expected}) > 1, "some rows end before others"
    for index, segment in zip(order, expected, strict=True):
        assert made[index] == segment


def test_one_step_s_scores_are_held_at_a_time_and_none_where_nobody_asks(
    learner: HuggingFaceLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(learner, monkeypatch)
    sampler = TransformersSampler(TOKENS, learner)
    asked = sampler.generate(calls(2, temperature=1.0, logprobs=True))
    plain = sampler.generate(calls(2, temperature=1.0))
    assert len(watched.made[0].scores) > 10
    assert sum(scores.untyped_storage().nbytes() for scores in watched.made[0].scores) == 0
    assert watched.made[1].scores is None
    assert [segment.token_ids for segment in asked] == [segment.token_ids for segment in plain]
    assert plain[0].logprobs is None
    assert all(not entry.top for segment in asked for entry in segment.logprobs or ())


def test_seats_are_the_rows_generated_at_once(
    learner: HuggingFaceLearner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watched = Watched(learner, monkeypatch)
    config = settings.load(
        "adaptthink-fleet", "adaptthink", {"model": {"path": BASE}, "rollouts.most_tokens": 80}
    )
    checkpoint_sampler(config, tmp_path, learner, seats=3).generate(calls(7))
    assert watched.rows == [3, 3, 1]


COMMON: Mapping[str, object] = {
    "task.grader": "contains",
    "task.questions": 8,
    "task.split": "train",
    "optimiser.learning_rate": 1e-4,
    "evaluate": 2,
}
METHODS: Mapping[str, Mapping[str, object]] = {
    "adaptthink": {
        "steps": 2,
        "reference.samples": 2,
        "rollouts": {"group": 4, "items_per_step": 2, "most_tokens": 80, "seats": 16},
    },
    "adacot": {
        "steps": 2,
        "reference.samples": 2,
        "rollouts": {"group": 4, "items_per_step": 2, "most_tokens": 80, "seats": 16},
        "warm_up": {"steps": 2, "questions": 6},
        "orders.warm_up_questions": 6,
        "value_learning_rate": 1e-3,
    },
    "fusion": {"steps": 6, "optimiser.schedule": "constant", "most_tokens": 80},
}


def trained(
    method: str, questions: Path, output: Path, **model: object
) -> tuple[Mapping[str, Any], list[Mapping[str, float]]]:
    """A run's report and metrics."""
    section = {"model": {"path": BASE, **model}, "task.file": str(questions)}
    config = settings.load(f"{method}-fleet", method, {**COMMON, **METHODS[method], **section})
    rows: list[Mapping[str, float]] = []
    report = execute(
        config, output, Watcher(step=lambda step, values: rows.append(values) if values else None)
    )
    return report, rows


@pytest.mark.parametrize(
    ("method", "written"),
    [("adaptthink", "r1"), ("adacot", "qwen3"), ("adacot", "r1"), ("fusion", "r1")],
)
def test_every_method_trains_a_checkpoint_of_either_format(
    method: str, written: str, questions: Path, inside_a_block: Path, tmp_path: Path
) -> None:
    path = BASE if written == "qwen3" else str(inside_a_block)
    tokens = ChatTokens(path)
    prompt = tokens.decode(tokens.prompt_ids(Call("r1", QUESTIONS[0].messages, Effort("default"))))
    assert prompt.endswith("<think>\n") == (written == "r1")
    assert (len(tokens.encode(R1_END)) == 1) == (written == "r1")
    report, rows = trained(method, questions, tmp_path / "run", path=path, format=written)
    losses = [row["loss"] for row in rows if "reward" not in row]
    if method == "fusion":
        assert losses[-1] < losses[0]
        assert set(report["before"]) == {"free", "think", "direct", "/think", "/no_think"}
    if method == "adacot":
        reinforced = [row for row in rows if "reward" in row]
        assert len(losses) == len(reinforced) == 2
        assert all(row["ratio_error"] < 1e-3 for row in reinforced), "what is scored is what was drawn"
        assert all(row["value_loss"] > 0 for row in reinforced)
    if method == "adaptthink":
        assert all(0 < row["ratio_error"] < 1 for row in rows), "one token in each response was forced"
    at_once = {mode: report["before"][mode]["by_level"]["direct"]["0"] for mode in ("think", "direct")}
    assert at_once == {"think": 0.0, "direct": 1.0}
    assert fingerprint(HuggingFaceLearner(str(tmp_path / "run" / "model"))) != fingerprint(
        HuggingFaceLearner(path)
    )


def test_a_resumed_run_does_not_measure_the_initial_model_again(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, rows = trained("fusion", questions, tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    [kept] = (tmp_path / "run").glob("before-*.json")
    asked: list[float] = []
    measure = assemble._measure_modes  # pyright: ignore[reportPrivateUsage]

    def watched(run: assemble.Run) -> dict[str, Measurement]:
        asked.append(1)
        return measure(run)

    monkeypatch.setattr(assemble, "_measure_modes", watched)
    (tmp_path / "run" / "report.json").unlink()
    again, rows = trained("fusion", questions, tmp_path / "run")
    assert asked == [1], "after training"
    assert not rows
    assert again == report
    assert kept.exists()


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # what peft asks Transformers for
def test_adapters_are_merged_into_the_model_that_a_run_leaves(questions: Path, tmp_path: Path) -> None:
    """Engines load `model/` without knowing of adapters; those lie beside it."""
    peft = pytest.importorskip("peft", reason="low-rank adapters need peft")
    _, rows = trained("fusion", questions, tmp_path / "run", lora_rank=4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    folder = tmp_path / "run" / "model"
    merged, base = load_file(folder / "model.safetensors"), HuggingFaceLearner(BASE)
    assert merged.keys() == load_file(Path(BASE) / "model.safetensors").keys()
    assert {path.name for path in (folder / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    changed = {
        name for name, value in merged.items() if not torch.equal(value, base.module.state_dict()[name])
    }
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert "model.embed_tokens.weight" not in changed
    adapted = peft.PeftModel.from_pretrained(base.model, folder / "adapter")
    whole = HuggingFaceLearner(str(folder))
    ids = torch.tensor([TOKENS.encode("who is x?")])
    with torch.no_grad():
        torch.testing.assert_close(whole.model(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
