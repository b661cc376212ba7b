"""Whatever stands on the server's command line and in the files that it names: a setting, or a refusal."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import headrace_server.__main__ as command
import pytest
from headrace_server.errors import InvalidRequest, ModelRefused
from headrace_server.rpc.ask import Chat
from headrace_server.rpc.chat_template import load_chat_template
from headrace_server.tenants import Tenants, tenants_from
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

PARSER = argparse.ArgumentParser(exit_on_error=False)
command.register(PARSER)
TYPED = [action for action in PARSER._actions if action.type not in {None, Path} and action.option_strings]
WORDS = st.text(max_size=12) | st.integers().map(str) | st.floats().map(str) | st.from_regex(r"[-0-9,.e]{0,12}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries({}, optional=dict.fromkeys(("weight", "maxConcurrent", "tokensPerSecond"), JSON))


@pytest.mark.parametrize("action", TYPED, ids=lambda action: str(action.option_strings[0]))
@given(word=WORDS)
@settings(max_examples=30, deadline=None)
@example(word="nan")
@example(word="inf")
@example(word="-1")
@example(word="0-999999999999")
@example(word="9" * 400)
@example(word="1e400")
@example(word="٣")
def test_any_word_is_a_finite_setting_or_is_refused_by_the_options_name(action: argparse.Action, word: str) -> None:
    refused = ""
    try:
        value = PARSER._get_value(action, word)  # type: ignore[attr-defined]
    except argparse.ArgumentError as error:
        refused = str(error)
    if refused:
        assert str(action.option_strings[0]) in refused
        return
    several = value if isinstance(value, tuple) else (value,)
    assert all(not isinstance(one, float) or math.isfinite(one) for one in several)
    assert len(several) < 10_000


@given(document=JSON | st.dictionaries(st.text(max_size=6) | st.just("*"), ENTRY | JSON, max_size=4))
@settings(max_examples=200, deadline=None)
@example(document={"a": {"weight": 10**400}})
@example(document={"a": {"maxConcurrent": 10**400}})
@example(document={"*": {"tokensPerSecond": 5e-324}})
def test_any_file_of_tenants_is_taken_or_refused_with_its_name(document: Any) -> None:
    tenants, refused = None, ""
    try:
        tenants = tenants_from(document, "--tenants FILE")
    except ModelRefused as error:
        refused = str(error)
    if tenants is None:
        assert refused.startswith("--tenants FILE: ")
        return
    assert isinstance(tenants, Tenants)
    for tenant in (*tenants.named.values(), tenants.others):
        assert 0 < tenant.weight < math.inf
        assert tenant.max_concurrent is None or tenant.max_concurrent > 0


TEMPLATES = JSON | st.lists(st.fixed_dictionaries({}, optional={"name": JSON | st.just("default"), "template": JSON}))


@given(config=JSON | st.fixed_dictionaries({"chat_template": TEMPLATES}, optional={"bos_token": JSON}))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(config={"chat_template": [{"name": [], "template": "x"}]})
@example(config={"chat_template": "{{ 1 / 0 }}"})
@example(config={"chat_template": "{{ messages[0] + 1 }}"})
def test_any_tokenizer_config_gives_a_template_or_is_refused(tmp_path: Path, config: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    refused, field = "", ""
    try:
        load_chat_template(tmp_path).render(Chat(({"role": "user", "content": "In"},)))
    except ModelRefused as error:
        refused = str(error)
    except InvalidRequest as error:
        field = error.field
    assert not refused or str(tmp_path) in refused
    assert field in {"", "messages"}
