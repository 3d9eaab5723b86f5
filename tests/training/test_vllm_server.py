"""What rollouts by a server refuse: answers and settings that real vLLM cannot be made to give, from a small real server.

How it works with real vLLM is in `tests/real_engines/test_training.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

from thinkroute.errors import (
    ConfigError,
    EngineInterrupted,
    EngineProtocolError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    ThinkrouteError,
    UnknownModel,
    UnsupportedRequest,
)
from thinkroute.fleet import shipped
from thinkroute.programs.protocol import Call, Segment
from thinkroute.training import settings
from thinkroute.training.chat_tokens import ChatTokens
from thinkroute.training.learner import HuggingFaceLearner, save_weights
from thinkroute.training.samplers import SamplerByModel
from thinkroute.training.vllm_sampler import VllmSampler, WeightsFolder
from thinkroute.training.vllm_server import Address

MEMBER = str(shipped.directory("base"))
TOKENS = ChatTokens(MEMBER)
END = TOKENS.tokenizer.eos_token_id
ANSWER = [*TOKENS.encode("so the last digit is 4."), END]


class Script:
    """What the server answers at each path, and what it was asked."""

    def __init__(self, **changes: Any) -> None:
        self.models: Any = {"data": [{"id": "student", "max_model_len": 256}]}
        self.choice: dict[str, Any] = {}
        self.tokenizer_shift = 0
        self.raw_logprobs = False
        self.ids = ANSWER
        self.refused: dict[str, int] = {}
        self.reset: Any = {"success": True}
        self.broken = False
        self.delay_s = 0.0
        self.asked: list[tuple[str, Any]] = []
        for name, value in changes.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def answer(self, path: str, body: Any) -> Any:
        if path == "/v1/models":
            return self.models
        if path == "/tokenize":
            return {"tokens": [each + self.tokenizer_shift for each in TOKENS.encode(body["prompt"])]}
        if path == "/collective_rpc":
            return {"results": [None]}
        if path == "/reset_prefix_cache":
            return self.reset
        ids = self.ids[: body["max_tokens"]]
        logprob = -0.5 if self.raw_logprobs else -0.5 * body["temperature"]
        return {
            "choices": [
                {
                    "token_ids": ids,
                    "prompt_token_ids": body["prompt"],
                    "finish_reason": "stop" if ids[-1] == END else "length",
                    "logprobs": {
                        "token_logprobs": [logprob] * len(ids),
                        "top_logprobs": [{f"token_id:{each}": logprob, "token_id:3": -9.0} for each in ids],
                    },
                    **self.choice,
                }
            ]
        }


@contextmanager
def serving(script: Script) -> Generator[str]:
    """A real HTTP server that plays a script; yields its API root."""

    class Player(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self._reply(json.loads(self.rfile.read(length) or b"null"))

        def _reply(self, body: Any) -> None:
            script.asked.append((self.path, body))
            status = script.refused.get(self.path, 200)
            said = {"error": {"message": "not here"}} if status != 200 else script.answer(self.path, body)
            data = json.dumps(said).encode()
            completion = self.path == "/v1/completions"
            if completion and script.delay_s:
                threading.Event().wait(script.delay_s)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data) + (9 if completion and script.broken else 0)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Player)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def call(**fields: Any) -> Call:
    return Call("student", [{"role": "user", "content": "what is 2 plus 2?"}], **fields)


def sampler(url: str, **fields: Any) -> VllmSampler:
    return VllmSampler(TOKENS, Address("student", url, **fields))


def test_an_answer_is_taken_id_by_id_with_its_probabilities() -> None:
    script = Script()
    with serving(script) as url:
        [segment] = sampler(url).generate(
            [call(options={"temperature": 0.5, "seed": 11, "logprobs": True, "top_logprobs": 1})]
        )
    assert segment.token_ids == tuple(ANSWER)
    assert (segment.text, segment.finish) == ("so the last digit is 4.", "stop")
    assert segment.logprobs is not None
    assert [entry.logprob for entry in segment.logprobs] == [-0.25] * len(ANSWER)
    assert segment.logprobs[0].top == ((TOKENS.decode(ANSWER[:1]), -0.25),)
    path, body = script.asked[-1]
    assert path == "/v1/completions"
    assert body["prompt"] == TOKENS.prompt_ids(call())
    assert (body["temperature"], body["seed"], body["model"]) == (0.5, 11, "student")
    assert body["stop_token_ids"] == [END]
    assert (body["top_p"], body["top_k"], body["ignore_eos"]) == (1.0, 0, True), (
        "no default of the server's counts"
    )


def test_a_stop_text_is_asked_for_and_cuts_after_itself() -> None:
    script = Script(ids=TOKENS.encode("so the last digit is"), choice={"finish_reason": "stop"})
    with serving(script) as url:
        [segment] = sampler(url).generate([call(until_text=" last")])
    assert script.asked[-1][1]["stop"] == [" last"]
    assert (segment.text, segment.finish) == ("so the last", "text_end")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"choice": {"token_ids": None}}, EngineProtocolError, "named no token ids"),
        (
            {"choice": {"prompt_token_ids": [1, 2]}},
            EngineProtocolError,
            "continued other ids than it was given",
        ),
        ({"choice": {"finish_reason": "abort"}}, EngineProtocolError, "ended an answer by 'abort'"),
        ({"choice": {"logprobs": None}}, EngineProtocolError, "one log-probability per token"),
        ({"ids": ANSWER[:3], "choice": {"finish_reason": "stop"}}, EngineProtocolError, "where nothing ends"),
        ({"choice": {"token_ids": "four"}}, EngineProtocolError, "something else than vLLM"),
        ({"refused": {"/v1/completions": 500}}, EngineRejected, "answered 500: not here"),
        ({"broken": True}, EngineInterrupted, "broke off"),
    ],
)
def test_an_answer_that_cannot_be_trained_on_is_an_error(
    changes: Mapping[str, Any], error: type[ThinkrouteError], message: str
) -> None:
    with serving(Script(**changes)) as url, pytest.raises(error, match=message):
        sampler(url).generate([call(options={"logprobs": True})] * 3)


def test_a_slow_answer_is_given_up() -> None:
    with serving(Script(delay_s=1.0)) as url, pytest.raises(EngineTimeout, match=r"within 0\.2 s"):
        sampler(url, request_timeout_s=0.2).generate([call()])


def test_a_server_that_is_down_is_named() -> None:
    with serving(Script()) as url:
        pass
    with pytest.raises(EngineUnavailable, match=f"cannot reach {url}"):
        sampler(url)


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        ({}, {"upstream_name": "qwen"}, r"has no model 'qwen'; it has: student"),
        ({"models": {"data": [{"id": "a"}, {"id": "b"}]}}, {}, r"several models or none \(a, b\)"),
        ({"tokenizer_shift": 1}, {}, "into other tokens"),
    ],
)
def test_another_model_is_refused_before_anything_is_asked_of_it(
    changes: Mapping[str, Any], fields: Mapping[str, Any], message: str
) -> None:
    script = Script(**changes)
    with serving(script) as url, pytest.raises(ConfigError, match=message):
        sampler(url, section="teacher", **fields)
    assert "/v1/completions" not in {path for path, _ in script.asked}


def test_a_learner_needs_probabilities_at_the_temperature_drawn_with(tmp_path: Path) -> None:
    with serving(Script(raw_logprobs=True)) as url:
        sampler(url)
        with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
            VllmSampler(TOKENS, Address("student", url), WeightsFolder(tmp_path))


def test_weights_are_written_taken_and_no_old_prefix_kept(tmp_path: Path) -> None:
    script = Script()
    with serving(script) as url:
        learner = VllmSampler(TOKENS, Address("student", url), WeightsFolder(tmp_path / "w", "bfloat16"))
        learner.load({"a": np.ones((2, 3), dtype=np.float32)})
    folder = tmp_path / "w"
    reload, reset = script.asked[-2:]
    assert reload == (
        "/collective_rpc",
        {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}},
    )
    assert reset[0] == "/reset_prefix_cache"
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    stored = load_file(folder / "model.safetensors")["a"]
    assert (stored.dtype, tuple(stored.shape)) == (torch.bfloat16, (2, 3))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"refused": {"/collective_rpc": 404}}, ConfigError, "VLLM_SERVER_DEV_MODE=1"),
        ({"refused": {"/collective_rpc": 500}}, EngineRejected, "must see under the same path"),
        ({"reset": {"success": False}}, EngineProtocolError, "prefixes of the old weights"),
    ],
)
def test_a_server_that_cannot_be_refreshed_is_refused(
    changes: Mapping[str, Any], error: type[ThinkrouteError], message: str, tmp_path: Path
) -> None:
    with serving(Script(**changes)) as url:
        learner = VllmSampler(TOKENS, Address("student", url), WeightsFolder(tmp_path))
        with pytest.raises(error, match=message):
            learner.load({"a": np.ones(1, dtype=np.float32)})


def test_a_frozen_model_is_never_given_weights() -> None:
    script = Script()
    with serving(script) as url, pytest.raises(UnsupportedRequest, match="frozen"):
        sampler(url).load({})
    assert "/collective_rpc" not in {path for path, _ in script.asked}


def test_the_window_caps_an_answer_and_a_full_one_ends_it() -> None:
    prompt = len(TOKENS.prompt_ids(call()))
    script = Script(models={"data": [{"id": "student", "max_model_len": prompt + 3}]})
    with serving(script) as url:
        short = sampler(url)
        [segment] = short.generate([call()])
        assert (segment.finish, len(segment.token_ids or ())) == ("length", 3)
        [rest] = short.generate([call(prefix=(segment,))])
        assert (rest.text, rest.finish, rest.token_ids) == ("", "length", ())
    script.models = {"data": [{"id": "student", "max_model_len": prompt}]}
    with serving(script) as url, pytest.raises(InvalidRequest, match="larger --max-model-len"):
        sampler(url).generate([call()])


def test_an_option_that_the_server_is_not_told_about_is_refused() -> None:
    with serving(Script()) as url, pytest.raises(UnsupportedRequest, match="no option top_k"):
        sampler(url).generate([call(options={"top_k": 3})])


def test_a_call_to_a_model_that_nobody_serves_is_refused() -> None:
    stray = Call("nobody", call().messages)
    with serving(Script()) as url, pytest.raises(UnknownModel, match="no model 'nobody'"):
        SamplerByModel(sampler(url), {}).generate([call(), stray])


def test_each_call_goes_to_the_sampler_of_its_model() -> None:
    other = Script(ids=[*TOKENS.encode("so the teacher says 5."), END])
    with serving(Script()) as url, serving(other) as teacher_url:
        teacher = VllmSampler(TOKENS, Address("teacher", teacher_url))
        both = SamplerByModel(sampler(url), {"teacher": teacher})
        question = call().messages
        calls = [call(), Call("teacher", question), call()]
        made: list[Segment] = both.generate(calls)
    assert [segment.owner for segment in made] == ["student", "teacher", "student"]
    assert [segment.token_ids == tuple(ANSWER) for segment in made] == [True, False, True]


def test_a_learners_weights_are_those_of_its_checkpoint(tmp_path: Path) -> None:
    learner = HuggingFaceLearner(MEMBER)
    weights = learner.weights()
    save_weights(weights, tmp_path / "model.safetensors", "float32")
    stored = load_file(tmp_path / "model.safetensors")
    state: dict[str, torch.Tensor] = learner.module.state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # what peft asks Transformers for
def test_adapters_are_merged_into_the_weights_that_a_server_gets() -> None:
    pytest.importorskip("peft")
    plain, adapted = HuggingFaceLearner(MEMBER), HuggingFaceLearner(MEMBER, lora_rank=2)
    with torch.no_grad():
        for name, parameter in adapted.module.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    ids = torch.tensor([TOKENS.encode("what is 2 plus 2?")])
    real = torch.ones_like(ids, dtype=torch.bool)
    expected = adapted.logits(adapted.hidden(ids, real))
    assert not torch.allclose(plain.logits(plain.hidden(ids, real)), expected, atol=1e-2)
    merged = {name: torch.from_numpy(values) for name, values in adapted.weights().items()}  # pyright: ignore[reportUnknownMemberType]
    plain.module.load_state_dict(merged)
    assert torch.allclose(plain.logits(plain.hidden(ids, real)), expected, atol=1e-4)


URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize("name", [name for name in settings.shipped() if "-fleet" not in name])
def test_every_shipped_checkpoint_can_be_rolled_out_by_a_server(name: str) -> None:
    method = name.partition("-")[0]
    overrides = {"teacher": {"url": URL}} if method == "relay" else {}
    config = settings.load(name, method, {"model.url": URL, **overrides})
    assert config.model.url == URL


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("adaptthink-qwen3-0.6b", {"model.url": "127.0.0.1:8000"}, r"model\.url"),
        ("adaptthink-qwen3-0.6b", {"model.upstream_name": "x"}, "`upstream_name` is about a server"),
        ("adaptthink-qwen3-0.6b", {"model.request_timeout_s": 5}, "`request_timeout_s` is about a server"),
        ("adaptthink-qwen3-0.6b", {"model": {"url": URL}}, "name their checkpoint in `path`"),
        ("adaptthink-fleet", {"model.url": URL}, "the embedded engine generates for members"),
        ("relay-qwen3-0.6b", {"teacher.url": URL}, "`path` does nothing"),
        (
            "relay-qwen3-0.6b",
            {"teacher": {"url": URL, "weights_folder": "w"}},
            "`weights_folder` does nothing",
        ),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(
    name: str, overrides: Mapping[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.load(name, name.partition("-")[0], overrides)


def test_a_file_without_a_server_is_known_by_the_text_it_always_had() -> None:
    """Checkpoints and tables of runs that began before servers existed are kept under it."""
    section = settings.ModelSection(fleet="base")
    assert "url" not in section.model_dump_json()
    assert "timeout" not in section.model_dump_json()
