"""How much of a device's speed a server attains, and who saw that."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from headrace_server.evaluation import BadFile

SHIPPED = "efficiencies.json"
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True)
class Efficiency:
    __pydantic_config__ = ConfigDict(extra="forbid")

    read: Share  # of the memory's bandwidth
    multiply: Share  # of the operations a second
    overhead_ms: Annotated[float, Field(ge=0)]  # of a step
    token_overhead_ms: Annotated[float, Field(ge=0)]  # for each token that is sent
    where: Annotated[str, Field(min_length=1)]  # it was measured, or why it was not


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = ConfigDict(extra="forbid")

    cpu: Efficiency
    gpu: Efficiency


def read_efficiency(path: Path | None, is_cpu: bool) -> Efficiency:
    """`path`: None = the file that comes with this program. Raises BadFile, OSError."""
    text = path.read_text(encoding="utf-8") if path else files(__package__).joinpath(SHIPPED).read_text()
    try:
        found = TypeAdapter(_File).validate_json(text)
    except ValidationError as refused:
        first = refused.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise BadFile(f"{path or SHIPPED}: {field}: {first['msg']}; docs/sizing.md shows one") from refused
    return found.cpu if is_cpu else found.gpu
