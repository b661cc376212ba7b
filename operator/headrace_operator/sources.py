"""Where a model's files lie, of three kinds: a folder of a claim, a Hugging Face cache in a claim, an image."""

import re
from dataclasses import dataclass

from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import Section

_PATH = r"[A-Za-z0-9._+=@~-]+(?:/[A-Za-z0-9._+=@~-]+)*"  # no $: Kubernetes replaces $(NAME) in a command line
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_CLAIM = re.compile(rf"pvc://([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)/({_PATH})/?")
_HUB = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?")
_IMAGE = re.compile(
    rf"oci://([a-z0-9][a-z0-9.:/_-]*(?::[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{{64}}))(?://({_PATH}))?"
)
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


def source(model: Section) -> Source:
    """Raises InvalidSpec."""
    text = str(model.values.get("source", ""))
    claim = model.text_if_given("cacheClaim")
    hub = _HUB.fullmatch(text)
    if bool(hub) != bool(claim):
        raise InvalidSpec(model.field("cacheClaim"), "must be given with a source hf://, and with no other")
    if ".." not in text:
        if hub and claim:
            return HubSource(hub[1], hub[2], claim)
        if found := _CLAIM.fullmatch(text):
            return ClaimSource(found[1], found[2])
        if found := _IMAGE.fullmatch(text):
            return ImageSource(found[1], found[2] or "")
    raise InvalidSpec(model.field("source"), f"{_NEEDS}, not {text!r}")
