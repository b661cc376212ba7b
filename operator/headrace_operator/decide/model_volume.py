"""How the model's files come into a pod: a volume, read-only in every case, and what the server is told to load."""

from typing import Any, assert_never

from headrace_operator.sources import ClaimSource, HubSource, ImageSource, Source

Body = dict[str, Any]
NAME = "models"
MOUNT = "/models"


def volume(source: Source) -> Body:
    match source:
        case ClaimSource(claim=claim) | HubSource(claim=claim):
            return {"name": NAME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        case ImageSource(reference=reference):  # the pull secrets of the pod hold for it, too
            return {"name": NAME, "image": {"reference": reference}}
        case _:
            assert_never(source)


def arguments(source: Source) -> list[str]:
    """For `headrace serve`."""
    cache = [f"--hub-cache={MOUNT}"] if isinstance(source, HubSource) else []
    return [f"--model={place(source)}", *cache]


def place(source: Source) -> str:
    """As the server is told it. It finds a snapshot in a cache itself: only it sees the files."""
    match source:
        case HubSource(repository=repository, revision=revision):
            at = f"@{revision}" if revision else ""
            return f"hf://{repository}{at}"
        case ClaimSource(path=path) | ImageSource(path=path):
            return f"{MOUNT}/{path}".rstrip("/")
        case _:
            assert_never(source)
