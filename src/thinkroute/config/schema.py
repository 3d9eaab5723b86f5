"""What a human writes: the shape of the YAML file. Every default is visible here; `resolve` completes the rest.

Prices and limits are optional on purpose: what is not written is unknown, never zero.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from thinkroute.types import Effort

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


MIN_KEY_CHARS = 8


Capability = Literal["tools", "images", "audio", "video", "files", "json", "logprobs"]


class Section(BaseModel):
    """A part of the file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PriceSection(Section):
    """What a model's tokens cost."""

    input_usd_per_mtok: NonNegative = Field(description="Dollars per million prompt tokens.")
    output_usd_per_mtok: NonNegative = Field(
        description="Dollars per million generated tokens, thinking included."
    )
    cached_input_usd_per_mtok: NonNegative | None = Field(
        default=None, description="Dollars per million cached prompt tokens; default: the input price."
    )


class TimeoutSection(Section):
    """How long to wait for an upstream."""

    connect_s: Positive = Field(default=5.0, description="Seconds to connect.")
    first_byte_s: Positive = Field(default=60.0, description="Seconds from the request to the first byte.")
    total_s: Positive = Field(default=600.0, description="Seconds for the whole answer.")


class ModelSection(Section):
    """An upstream model behind an OpenAI-compatible endpoint."""

    url: str = Field(description="API root, e.g. http://127.0.0.1:8000/v1")
    upstream_name: str | None = Field(
        default=None, description="Name the server knows the model by; default: the key of this entry."
    )
    api_key: SecretStr | None = Field(
        default=None, description="Bearer key for this server, e.g. ${OPENAI_API_KEY}."
    )
    family: str | None = Field(
        default=None, description="Model family of the catalog; default: recognised from the name."
    )
    price: PriceSection | None = Field(default=None, description="Unknown when absent; never assumed zero.")
    description: str = Field(
        default="",
        description="What it is and what it is good at, in a sentence or two: routers go by it while outcomes are missing.",
    )
    parameters_b: Positive | None = Field(
        default=None,
        description="Size in billions of parameters; default: read from the name or the description where they tell.",
    )
    context_window: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="Tokens of prompt plus answer; unknown when absent."
    )
    capabilities: tuple[Capability, ...] = Field(
        default=("tools", "images", "audio", "video", "files", "json", "logprobs"),
        description="What the server can honour beyond text. Requests that need more go to other arms.",
    )
    continuation: Literal["none", "prefill", "completions"] = Field(
        default="none",
        description="How the server continues its own message, for two-call thinking budgets: "
        "`prefill` (chat with continue_final_message: vLLM, SGLang) or `completions` (raw /v1/completions).",
    )
    thinking_budget_field: str | None = Field(
        default=None,
        description="Request field by which the server itself enforces a thinking budget, "
        "e.g. thinking_token_budget (vLLM) or thinking_budget_tokens (llama.cpp).",
    )
    thinking_budgets: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(1024, 4096), description="Budgets offered as arms when one can be enforced."
    )
    timeouts: TimeoutSection = TimeoutSection()

    @field_validator("url")
    @classmethod
    def _http_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://, e.g. http://127.0.0.1:8000/v1")
        return url.rstrip("/")


class ArmSection(Section):
    """One way of answering, written out."""

    model: str = Field(
        description="A name under `models` (or `student`, `teacher` of the fleet), `relay(student -> teacher)`, or "
        "`cascade(small@off -> large@high)`, whose stages have their own efforts."
    )
    effort: str = Field(
        default="default",
        description="off, on, low, medium, high, …, budget=<tokens>, or adaptive=<threshold>.",
    )
    quality: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Your own guess of P(good answer), used until a router is fitted."
    )

    @field_validator("effort")
    @classmethod
    def _effort(cls, effort: str) -> str:
        Effort.parse(effort)
        return effort


class VirtualModelSection(Section):
    """A model name that callers can ask for and that stands for a choice among arms."""

    arms: tuple[str, ...] = Field(min_length=1, description="Arm ids, e.g. student@off.")
    value_usd: Positive | None = Field(
        default=None, description="Worth of a right answer for this name; default: the policy's."
    )


class BudgetSection(Section):
    """Limits that hold whatever a router believes."""

    usd_per_day: Positive | None = Field(
        default=None, description="Spend per UTC day, over all keys of this process."
    )
    usd_per_request: Positive | None = Field(default=None, description="Worst-case spend of one request.")
    tokens_per_request: Annotated[int, Field(gt=0)] = Field(
        default=4096,
        description="Cap on generated tokens while a dollar budget is set, so that the worst case is known.",
    )

    @property
    def in_dollars(self) -> bool:
        """Whether any dollar limit is set."""
        return self.usd_per_day is not None or self.usd_per_request is not None


class PolicySection(Section):
    """How predictions become a choice."""

    value_usd: Positive = Field(default=0.01, description="Dollars a right answer is worth: the one dial.")
    latency_usd_per_s: NonNegative = Field(default=0.0, description="Dollars one second of waiting costs.")
    explore: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Share of requests answered by a uniformly drawn allowed arm, to learn from."
    )
    seed: int | None = Field(
        default=None,
        description="Seed of the exploration draws, to repeat a run; default: a new one each start.",
    )
    budgets: BudgetSection = BudgetSection()


class RouterSection(Section):
    """Where predictions come from."""

    path: str | None = Field(
        default=None, description="Folder written by `thinkroute fit`; default: the shipped prior."
    )


class RelaySection(Section):
    """Bounds of relay arms, whatever a student asks for."""

    most_calls: Annotated[int, Field(ge=0, le=64)] = Field(
        default=8, description="Commands of a student that are answered in one request."
    )
    most_tokens_per_call: Annotated[int, Field(gt=0)] = Field(
        default=256, description="Tokens the teacher may write in one hand-over."
    )
    teacher_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=30.0, description="Longest one hand-over may take; then the student goes on alone."
    )


class CascadeSection(Section):
    """What cascade arms decide by."""

    path: str | None = Field(
        default=None,
        description="Folder written by `thinkroute cascade fit`; default: the one shipped for the fleet.",
    )


class StoreSection(Section):
    """Where decisions are kept."""

    path: str | None = Field(
        default=None,
        description="SQLite file, or `memory`; default: thinkroute/decisions.db in the user's state folder.",
    )
    log_content: bool = Field(
        default=False, description="Keep question and answer texts in the log (needed to fit from it)."
    )


class ServerSection(Section):
    """Where and how to listen."""

    host: str = Field(default="127.0.0.1", description="Other addresses than loopback need `api_keys`.")
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    api_keys: tuple[SecretStr, ...] = Field(
        default=(), description="Keys callers must send as `Authorization: Bearer …`; none: no key needed."
    )

    @field_validator("api_keys")
    @classmethod
    def _long_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value().strip()) < MIN_KEY_CHARS for key in keys):
            raise ValueError(
                f"every key needs at least {MIN_KEY_CHARS} characters; an empty one opens the gateway"
            )
        return keys

    max_body_bytes: Annotated[int, Field(gt=0)] = Field(
        default=4_000_000, description="Larger requests get 413 before they are parsed."
    )
    max_json_depth: Annotated[int, Field(gt=0)] = Field(
        default=64, description="Deeper nesting gets 400 before it is parsed."
    )
    max_concurrency: Annotated[int, Field(gt=0)] = Field(
        default=1024, description="Requests answered at once; more get 503."
    )


class Config(Section):
    """The whole file. An empty file serves the embedded fleet."""

    server: ServerSection = ServerSection()
    fleet: bool | None = Field(
        default=None, description="Serve the embedded fleet; default: only when no model is listed."
    )
    models: dict[str, ModelSection] = Field(default={}, description="Upstream models by name.")
    arms: tuple[str | ArmSection, ...] = Field(
        default=(), description="Ways of answering; default: one per model and effort its family knows."
    )
    virtual_models: dict[str, VirtualModelSection] = Field(
        default={}, description="Names beside `auto` that callers can ask for."
    )
    policy: PolicySection = PolicySection()
    router: RouterSection = RouterSection()
    relay: RelaySection = RelaySection()
    cascade: CascadeSection = CascadeSection()
    store: StoreSection = StoreSection()
