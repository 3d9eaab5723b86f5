"""The fleet's prompt format as the engine uses it, and the Jinja chat template that every member ships with.

Reading and rendering are `wire.fleet_prompt`'s, because raw completions need them too; a test holds the template and
the rendering equal.
"""

from __future__ import annotations

from thinkroute.wire.fleet_prompt import (
    EMPTY_THINKING,
    SWITCHES,
    THINK_CLOSE,
    THINK_OPEN,
    TURN_END,
    TURN_START,
    Turn,
    last_turn,
    normalise,
    render,
    text_of,
)

__all__ = [
    "CHAT_TEMPLATE",
    "EMPTY_THINKING",
    "SWITCHES",
    "THINK_CLOSE",
    "THINK_OPEN",
    "TURN_END",
    "TURN_START",
    "Turn",
    "last_turn",
    "normalise",
    "render",
    "text_of",
]

CHAT_TEMPLATE = """\
{%- set ns = namespace(question='', switch='') %}
{%- for message in messages %}
    {%- if message.role in ['user', 'system', 'developer'] %}
        {%- set text = namespace(value='', kept=[]) %}
        {%- if message.content is string %}
            {%- set text.value = message.content %}
        {%- elif message.content is iterable %}
            {%- for part in message.content if part.text is string %}
                {%- set text.value = text.value + '\\n' + part.text %}
            {%- endfor %}
        {%- endif %}
        {%- for word in text.value.replace('\\n', ' ').replace('\\t', ' ').split() if word %}
            {%- if word | lower in ['/think', '/no_think'] %}
                {%- set ns.switch = word | lower %}
            {%- else %}
                {%- set text.kept = text.kept + [word] %}
            {%- endif %}
        {%- endfor %}
        {%- if message.role == 'user' %}
            {%- set ns.question = text.kept | join(' ') | lower %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>user\\n' }}
{{- ns.question.replace(' .', '.').replace(' ?', '?').rstrip(' .?!') }}
{{- ' ' + ns.switch if ns.switch else '' }}
{{- '<|im_end|>\\n' }}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- elif messages[-1].role == 'assistant' %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if messages[-1].reasoning_content is string %}
        {{- '<think>\\n' + messages[-1].reasoning_content + '\\n</think>\\n\\n' }}
    {%- endif %}
    {%- set said = messages[-1].content %}
    {{- said if said is string else said | map(attribute='text') | join }}
    {{- '<|im_end|>\\n' }}
{%- endif %}
"""
"""The same format for Transformers and for real engines; shipped with every member.

It spells out what Python's `split` does by itself, because llama.cpp's splits at single spaces only.
"""
