"""How adapters' files come into a pod: with the model's own volume where they lie in it, else with one of their own."""

from typing import Any, assert_never

from headrace_operator.decide import model_volume
from headrace_operator.service import Model
from headrace_operator.sources import ClaimSource, HubSource, ImageSource, Source

Body = dict[str, Any]
MOUNT = "/adapters"


def volumes(model: Model) -> list[Body]:
    return [
        model_volume.volume(adapter.source) | {"name": _name(number)}
        for number, adapter in enumerate(model.adapters)
        if not _is_there(model, adapter.source)
    ]


def volume_mounts(model: Model) -> list[Body]:
    return [
        {"name": _name(number), "mountPath": f"{MOUNT}/{number}", "readOnly": True}
        for number, adapter in enumerate(model.adapters)
        if not _is_there(model, adapter.source)
    ]


def arguments(model: Model) -> list[str]:
    """For `headrace serve`."""
    return [
        f"--lora={adapter.name}={_place(adapter.source, number, model)}"
        for number, adapter in enumerate(model.adapters)
    ]


def _name(number: int) -> str:
    return f"adapter-{number}"


def _is_there(model: Model, source: Source) -> bool:
    """In the model's own volume. A source hf:// always is: they have one cache."""
    if isinstance(source, ClaimSource):
        return isinstance(model.source, ClaimSource) and source.claim == model.source.claim
    return isinstance(source, HubSource)


def _place(source: Source, number: int, model: Model) -> str:
    root = model_volume.MOUNT if _is_there(model, source) else f"{MOUNT}/{number}"
    match source:
        case HubSource(repository=repository, revision=revision):
            return f"hf://{repository}@{revision}" if revision else f"hf://{repository}"
        case ClaimSource(path=path) | ImageSource(path=path):
            return f"{root}/{path}".rstrip("/")
        case _:
            assert_never(source)
