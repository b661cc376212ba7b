"""Where a model's files lie, of three kinds: a folder of a claim, a Hugging Face cache in a claim, an image."""

import re
from dataclasses import dataclass, replace

from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import Section

_PATH = r"[A-Za-z0-9._+=@~-]+(?:/[A-Za-z0-9._+=@~-]+)*"  # no $: Kubernetes replaces $(NAME) in a command line
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_CLAIM = re.compile(rf"pvc://([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)/({_PATH})/?")
_HUB = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?")
_IMAGE = re.compile(
    rf"oci://([a-z0-9][a-z0-9.:/_-]*(?::[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{{64}}))(?://({_PATH}))?"
)
_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_NEEDS = "must be pvc://CLAIM/PATH, hf://ORG/NAME[@REVISION] or oci://REGISTRY/REPO:TAG[//PATH]"


@dataclass(frozen=True, slots=True)
class ClaimSource:
    claim: str  # PersistentVolumeClaim
    path: str  # inside it


@dataclass(frozen=True, slots=True)
class HubSource:
    repository: str  # ORG/NAME
    revision: str | None  # branch, tag or commit; None = what the cache's refs/main names
    claim: str  # PersistentVolumeClaim with a Hugging Face cache


@dataclass(frozen=True, slots=True)
class ImageSource:
    reference: str  # REGISTRY/REPO:TAG or REGISTRY/REPO@sha256:DIGEST
    path: str  # inside the image; empty = its root


Source = ClaimSource | HubSource | ImageSource


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA, beside the model."""

    name: str  # that requests give
    source: Source


def source(model: Section) -> Source:
    """Raises InvalidSpec."""
    text = str(model.values.get("source", ""))
    claim = model.text_if_given("cacheClaim")
    hub = _HUB.fullmatch(text)
    if bool(hub) != bool(claim):
        raise InvalidSpec(model.field("cacheClaim"), "must be given with a source hf://, and with no other")
    return _found(model, text, claim)


def adapters(model: Section) -> tuple[Adapter, ...]:
    """Raises InvalidSpec."""
    claim = model.text_if_given("cacheClaim")
    found = tuple(_adapter(each, claim) for each in model.parts("adapters"))
    if len({adapter.name for adapter in found}) < len(found):
        raise InvalidSpec(model.field("adapters"), "must have a name of its own for each, and one is there twice")
    return found


def _adapter(given: Section, claim: str | None) -> Adapter:
    name, text = given.text("name"), given.text("source")
    if not _ADAPTER.fullmatch(name):
        raise InvalidSpec(given.field("name"), f"must be up to 128 letters, digits and . _ / -, not {name!r}")
    if _HUB.fullmatch(text) and not claim:
        raise InvalidSpec(
            given.field("source"), "must not be hf:// without model.cacheClaim, where it would lie; take pvc://"
        )
    return Adapter(name, _found(given, text, claim))


def _found(given: Section, text: str, claim: str | None) -> Source:
    """`claim`: that holds a Hugging Face cache."""
    if ".." not in text:
        if (hub := _HUB.fullmatch(text)) and claim:
            return HubSource(hub[1], hub[2], claim)
        if found := _CLAIM.fullmatch(text):
            return ClaimSource(found[1], found[2])
        if found := _IMAGE.fullmatch(text):
            return ImageSource(found[1], found[2] or "")
    raise InvalidSpec(given.field("source"), f"{_NEEDS}, not {text!r}")


def beside(source: Source, text: str) -> Source | None:
    """Another model in the volume of this one: its path there, or its name in the same cache. None: it is neither."""
    if ".." in text:
        return None
    if isinstance(source, HubSource):
        hub = _HUB.fullmatch(text)
        return HubSource(hub[1], hub[2], source.claim) if hub else None
    return replace(source, path=text) if re.fullmatch(_PATH, text) else None
