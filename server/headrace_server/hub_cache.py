"""hf://ORG/NAME[@REVISION]: which folder of a mounted Hugging Face cache that is. Nothing is ever downloaded."""

from pathlib import Path

from headrace_server.errors import ModelRefused

SCHEME = "hf://"


def checkpoint(model: str, hub_cache: Path | None) -> Path:
    """The folder with the model's files. Raises ModelRefused.

    `hub_cache`: the folder that holds models--ORG--NAME, as `hf download --cache-dir` fills it.
    """
    if not model.startswith(SCHEME):
        return Path(model)
    if hub_cache is None:
        raise ModelRefused(f"{model} is looked up in a Hugging Face cache; name its folder with --hub-cache")
    repository, _, revision = model.removeprefix(SCHEME).partition("@")
    return _snapshot(repository, revision or None, hub_cache)


def _snapshot(repository: str, revision: str | None, hub_cache: Path) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - half a second, for this one source
    from huggingface_hub.errors import (  # noqa: PLC0415 - likewise
        HFValidationError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
    )

    at = f" --revision {revision}" if revision else ""
    remedy = f"fill it with `hf download {repository}{at} --cache-dir {hub_cache}`"
    try:
        found = snapshot_download(repository, revision=revision, cache_dir=hub_cache, local_files_only=True)
    except HFValidationError as error:
        raise ModelRefused(f"hf://{repository}: {error}") from error
    except IncompleteSnapshotError as error:
        raise ModelRefused(f"hf://{repository} is not complete in the cache {hub_cache}; {remedy}: {error}") from error
    except LocalEntryNotFoundError as error:
        which = f"revision {revision}" if revision else "refs/main"
        raise ModelRefused(f"hf://{repository} ({which}) is not in the cache {hub_cache}; {remedy}") from error
    return Path(found)
