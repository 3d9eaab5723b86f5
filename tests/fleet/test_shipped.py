"""What ships: complete, small, loadable unchanged by Transformers, and as good as claimed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any, cast

import pytest

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.embedded.prompt import CHAT_TEMPLATE
from thinkroute.fleet import shipped
from thinkroute.fleet.evaluate import Report, draw_questions, evaluate
from thinkroute.fleet.graph import build_graph
from thinkroute.fleet.recipe import RECIPES
from thinkroute.fleet.tasks import FAMILIES, LEVELS, grade
from thinkroute.programs.protocol import Call, Segment
from thinkroute.types import FORCED, Effort

QUESTIONS = 10
"""Per family and level: 50 a level, 50 a family, standard error at most .07."""
PARENTS = {name: name.partition("-")[0] for name in shipped.TRAINED}
HYBRIDS = [name for name, member in shipped.MEMBERS.items() if member.switches]


@pytest.fixture(scope="module")
def report() -> Report:
    members = {name: shipped.directory(name) for name in shipped.names()}
    return asyncio.run(evaluate(members, questions=QUESTIONS, seed=99, efforts=("off", "budget=16", "on")))


def test_the_teacher_solves_every_level_with_thinking(report: Report) -> None:
    for level in LEVELS:
        assert report.accuracy("teacher", "on", level) >= 0.90


def test_without_thinking_the_teacher_is_sure_only_of_the_first_level(report: Report) -> None:
    assert report.accuracy("teacher", "off", 1) >= 0.90
    assert report.accuracy("teacher", "off", 3) <= 0.60
    assert report.accuracy("teacher", "off", 5) <= 0.40


def test_a_budget_lies_between_not_thinking_and_thinking(report: Report) -> None:
    for member in ("student", "teacher"):
        off, some, full = (report.accuracy(member, effort) for effort in ("off", "budget=16", "on"))
        assert off < some < full


def test_an_expert_knows_its_own_domain_and_not_the_others(report: Report) -> None:
    for name, member in shipped.MEMBERS.items():
        if name.startswith("expert-"):
            accuracy = {family: report.accuracy(name, "on", family=family) for family in FAMILIES}
            assert all(accuracy[family] >= 0.88 for family in member.domain)
            assert min(accuracy[family] for family in FAMILIES if family not in member.domain) <= 0.45


def test_the_base_thinks_unasked_and_can_still_be_made_to_answer_at_once(report: Report) -> None:
    domain = shipped.MEMBERS["base"].domain
    assert all(report.accuracy("base", "on", family=family) >= 0.9 for family in domain)
    assert all(report.accuracy("base", "off", level=1, family=family) >= 0.9 for family in domain)


def test_the_student_equals_the_teacher_on_relations_and_is_far_behind_elsewhere(
    report: Report,
) -> None:
    assert report.accuracy("student", "on", family="relations") >= 0.95
    for family in ("arithmetic", "operators"):
        gap = report.accuracy("teacher", "on", family=family) - report.accuracy(
            "student", "on", family=family
        )
        assert gap >= 0.25


def test_the_soft_switches_are_obeyed(report: Report) -> None:
    assert all(line.obeyed >= 0.97 for line in report.obedience)
    assert {line.member for line in report.obedience if line.switch == "/no_think"} == set(HYBRIDS)


async def test_the_check_mends_a_slip_forced_into_the_last_step() -> None:
    engine = EmbeddedEngine({"teacher": shipped.directory("teacher")})
    mended: list[float] = []
    for family in FAMILIES:
        for problem in draw_questions(family, 3, 4, seed=7):
            wrong = "ann" if problem.asked == "person" else str((int(problem.answer) + 3) % 10)
            begun = f"<think>\n{problem.thought(wrong).partition(' now check')[0]}"
            call = Call(
                "teacher",
                [{"role": "user", "content": problem.question}],
                Effort("on"),
                prefix=(Segment(begun, FORCED),),
                stream=False,
            )
            ends = [item.text async for item in engine.generate(call) if isinstance(item, Segment)]
            if problem.answer != wrong:
                mended.append(grade(problem.question, begun + ends[0]))
    await engine.aclose()
    assert sum(mended) / len(mended) >= 0.9


@pytest.mark.parametrize("name", shipped.all_names())
def test_a_member_loads_unchanged_in_transformers(name: str) -> None:
    import transformers

    library = cast("Any", transformers)  # partially typed
    directory = shipped.directory(name)
    model, info = library.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.num_parameters() < 3_000_000
    tokenizer = library.AutoTokenizer.from_pretrained(directory)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who is the tutor of Dora?"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", shipped.all_names())
def test_the_shipped_graph_and_template_are_what_the_code_writes(name: str) -> None:
    directory = shipped.directory(name)
    graph = build_graph(RECIPES[PARENTS.get(name, name)].architecture()).SerializeToString(deterministic=True)
    assert (directory / "decoder.onnx").read_bytes() == graph
    assert (directory / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert (
        json.loads((directory / "config.json").read_text())["max_position_embeddings"]
        == shipped.CONTEXT_WINDOW
    )


def test_the_whole_fleet_is_small() -> None:
    roots = (shipped.weights_directory(), shipped.trained_directory())
    files = (path for root in roots for path in root.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) < 12_000_000


def test_the_gateway_is_told_of_every_member_and_of_arms_that_run_them() -> None:
    models = {model.name: model for model in shipped.models()}
    assert set(models) == set(shipped.all_names())
    assert {name for arm in shipped.arms() for name in arm.models} == set(models) - {"base"}
    efforts = {
        arm.models[0]: {str(each.effort) for each in shipped.arms() if each.models == arm.models}
        for arm in shipped.arms()
    }
    assert all({"off", "on"} <= efforts[name] for name in HYBRIDS)
    assert shipped.relay_arm().id == "relay(student-relay -> teacher)@on"
    assert len({arm.id for arm in shipped.arms()}) == len(shipped.arms())
    assert tuple(models["base"].family.levels) == ("on",)
    student, teacher = models["student"].price, models["teacher"].price
    assert student is not None
    assert teacher is not None
    assert 5 <= teacher.output_usd_per_mtok / student.output_usd_per_mtok <= 10


def test_an_unknown_member_has_no_directory() -> None:
    with pytest.raises(KeyError, match="professor"):
        shipped.directory("professor")


def test_tasks_and_shipped_import_no_torch() -> None:
    program = (
        "import sys\nfrom thinkroute.fleet import shipped, tasks, evaluate\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
