from __future__ import annotations

import pytest
from jinja2.exceptions import SecurityError

from qwire.text.sandbox import MessagesRefused, sandbox


def render(source: str, **variables: object) -> str:
    return sandbox().from_string(source).render(**variables)


def test_json_is_not_escaped_for_html_or_ascii():
    assert render("{{ x | tojson }}", x={"a": "<é&>"}) == '{"a": "<é&>"}'
    assert render("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"


def test_blocks_leave_no_blank_lines():
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_loops_can_be_left():
    assert render("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "012"


def test_a_generation_block_is_rendered_in_a_scope_of_its_own():
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{{ y }}{% endgeneration %}{{ x }}"
    assert render(source, y="!") == "2!1"


def test_raise_exception_refuses():
    with pytest.raises(MessagesRefused, match="no such role"):
        render("{{ raise_exception('no such role') }}")


def test_dates_can_be_written():
    assert render("{{ strftime_now('%Y') }}").isdigit()


def test_dictionaries_and_namespaces_can_be_made():
    assert render("{% set d = dict(a=1) %}{{ d.a }}") == "1"
    assert render("{% set ns = namespace({'n': 0}, m=2) %}{% set ns.n = 3 %}{{ ns.n }}{{ ns.m }}") == "32"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ dict.__init__.__globals__ }}",
        "{% set ns = namespace(_x=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ raise_exception.__globals__.json }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str):
    with pytest.raises(SecurityError):
        render(source, messages=[])
