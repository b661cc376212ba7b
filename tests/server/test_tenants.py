"""The file of tenants: what it says, and in which words a mistake is refused."""

from typing import Any

import pytest
from headrace_server.errors import ModelRefused
from headrace_server.tenants import Tenant, TenantClass, Tenants, tenants_from

WRITTEN = {"gold": {"weight": 4, "maxConcurrent": 8, "tokensPerSecond": 2000}, "*": {"maxConcurrent": 2}}


def test_each_has_its_entry_and_others_theirs() -> None:
    tenants = tenants_from(WRITTEN, "tenants.json")
    assert tenants.of("gold") == Tenant(weight=4.0, max_concurrent=8, tokens_per_second=2000.0)
    assert tenants.of("stranger") == tenants.of("") == Tenant(max_concurrent=2)
    assert [tenants.class_of(name) for name in ("gold", "*")] == [TenantClass.NAMED, TenantClass.DEFAULT]


def test_without_a_file_nobody_is_limited() -> None:
    assert Tenants().of("anybody") == Tenant(weight=1.0, max_concurrent=None, tokens_per_second=None)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "tenants.json: is no JSON object"),
        ({"a": 1}, "tenants.json: a: is no object"),
        ({"a": {"wieght": 1}}, r"a.wieght: is unknown; there are weight, maxConcurrent, tokensPerSecond"),
        ({"a": {"weight": 0}}, r"a.weight: is 0; must be a number above 0"),
        ({"a": {"weight": True}}, r"a.weight: is True; must be a number"),
        ({"a": {"tokensPerSecond": "9"}}, r"a.tokensPerSecond: is '9'; must be a number"),
        ({"a": {"maxConcurrent": 1.5}}, r"a.maxConcurrent: is 1.5; must be a whole number"),
        ({"*": {"weight": float("inf")}}, r"\*.weight: is inf"),
    ],
)
def test_a_mistake_is_named(document: Any, told: str) -> None:
    with pytest.raises(ModelRefused, match=told):
        tenants_from(document, "tenants.json")
