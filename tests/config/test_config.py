"""What users write, what they meant, and what they are told when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkroute.catalog import Model, family_named
from thinkroute.config import Config, load_config, parse_config, resolve
from thinkroute.errors import ConfigError
from thinkroute.types import Arm, Effort

FULL = """
server: {port: 9000, api_keys: ["${GATE_KEY}"]}
models:
  qwen:
    url: http://127.0.0.1:8000/v1/
    upstream_name: Qwen/Qwen3-8B
    price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: "${OUT_PRICE:-0.4}"}
    continuation: prefill
  mini: {url: "https://api.example.com/v1", api_key: "${MINI_KEY:-}"}
arms:
  - qwen@off
  - {model: qwen, effort: budget=512, quality: 0.8}
  - mini
virtual_models:
  careful: {arms: [qwen@budget=2048], value_usd: 0.5}
policy: {value_usd: 0.02, budgets: {usd_per_day: 3}}
"""


def parse(text: str, **environment: str) -> Config:
    return parse_config(text, source="test.yaml", environment={"GATE_KEY": "gate-key-1", **environment})


def test_a_full_file_resolves_to_complete_types() -> None:
    resolved = resolve(parse(FULL))
    assert [arm.id for arm in resolved.arms] == ["qwen@off", "qwen@budget=512", "mini@default"]
    assert resolved.models["qwen"].base_url == "http://127.0.0.1:8000/v1"
    assert resolved.models["qwen"].family.name == "qwen3"
    price = resolved.models["qwen"].price
    assert price is not None
    assert price.output_usd_per_mtok == 0.4
    assert resolved.models["mini"].price is None, "an unwritten price is unknown"
    assert resolved.declared_quality == {"qwen@budget=512": 0.8}
    assert resolved.virtual_models["auto"].arms == resolved.arms
    assert resolved.virtual_models["careful"].value_usd == 0.5
    assert resolved.virtual_models["careful"].arms[0].program == "budgeted"


def test_an_environment_variable_beats_its_default() -> None:
    resolved = resolve(parse(FULL, OUT_PRICE="7"))
    assert resolved.models["qwen"].price is not None
    assert resolved.models["qwen"].price.output_usd_per_mtok == 7


def test_arms_are_listed_automatically_from_what_the_family_can_do() -> None:
    resolved = resolve(
        parse(
            "models: {Qwen3-8B: {url: 'http://x/v1', continuation: prefill}, gpt-oss: {url: 'http://y/v1'}}"
        )
    )
    assert [arm.id for arm in resolved.arms] == [
        "Qwen3-8B@off", "Qwen3-8B@on", "Qwen3-8B@budget=1024", "Qwen3-8B@budget=4096",
        "gpt-oss@low", "gpt-oss@medium", "gpt-oss@high",
    ]  # fmt: skip


def test_an_engine_that_enforces_budgets_itself_needs_one_call() -> None:
    resolved = resolve(
        parse("models: {qwen3: {url: 'http://x/v1', thinking_budget_field: thinking_token_budget}}")
    )
    programs = {arm.id: arm.program for arm in resolved.arms}
    assert programs["qwen3@budget=1024"] == "direct"


def test_an_empty_file_serves_the_fleet() -> None:
    model = Model("student", "student", "embedded", family_named("thinkroute-fleet"))
    arm = Arm("direct", ("student",), Effort("off"))
    resolved = resolve(parse(""), [model], [arm])
    assert resolved.arms == (arm,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modles: {}", "modles: unknown key; did you mean `models`?"),
        ("models: {a: {url: 'http://x/v1', pric: {}}}", "models.a.pric: unknown key; did you mean `price`?"),
        (
            "policy: {budgets: {usd_per_da: 1}}",
            "policy.budgets.usd_per_da: unknown key; did you mean `usd_per_day`?",
        ),
        ("models: {a: {}}", "models.a.url: field required"),
        ("models: {a: {url: ftp://x}}", "models.a.url: must start with http:// or https://"),
        ("server: {port: 99999}", "server.port: input should be less than or equal to 65535"),
        ("server: {api_keys: ['']}", "every key needs at least 8 characters"),
        ("policy: {value_usd: 0}", "policy.value_usd: input should be greater than 0"),
        ("arms: [{model: a, effort: hgih}]", "unknown effort 'hgih'"),
        ("server: {api_keys: ['${NOT_SET}']}", "server.api_keys[0] refers to ${NOT_SET}, which is not set"),
        ("- a", "must hold a mapping"),
        ("a: [", "not valid YAML"),
        ("policy: {value_usd: 1}\npolicy: {value_usd: 2}", "the key 'policy' is written twice"),
    ],
)
def test_errors_name_the_place_and_the_fix(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {qwen3: {url: 'http://x'}}\narms: [qwen@off]", "did you mean 'qwen3'?"),
        ("models: {m: {url: 'http://x'}}\narms: [m@high]", "use one of: default"),
        ("models: {qwen3: {url: 'http://x'}}\narms: [qwen3@budget=5]", "no way to enforce a thinking budget"),
        ("models: {auto: {url: 'http://x'}}", "'auto' cannot be a model name"),
        ("models: {m: {url: 'http://x', family: qwn}}", "unknown model family 'qwn'"),
        ("models: {m: {url: 'http://x'}}\nvirtual_models: {m: {arms: [m]}}", "a model has the same name"),
        ("fleet: false", "nothing can answer"),
    ],
)
def test_names_are_checked_against_each_other(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(parse(text))
    assert said in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read configuration"):
        load_config(tmp_path / "none.yaml")


def test_secrets_never_show_in_the_configuration_s_text() -> None:
    assert "canary" not in repr(parse(FULL, MINI_KEY="canary", GATE_KEY="canary-1"))
