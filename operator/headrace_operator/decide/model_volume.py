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
    """For `headrace serve`. The server finds a snapshot in a cache itself: only it sees the files."""
    match source:
        case ClaimSource(path=path):
            return [f"--model={MOUNT}/{path}"]
        case HubSource(repository=repository, revision=revision):
            at = f"@{revision}" if revision else ""
            return [f"--model=hf://{repository}{at}", f"--hub-cache={MOUNT}"]
        case ImageSource(path=path):
            return [f"--model={MOUNT}/{path}".rstrip("/")]
        case _:
            assert_never(source)
