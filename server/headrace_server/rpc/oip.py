"""The Open Inference Protocol, version 2: what both of its doors say of a model, and what they read from a request.

A model that embeds is a function of one tensor of texts to one tensor of vectors. A model that generates has no such
form: the protocol has no streams, so it is described and refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from headrace_server.config import Task
from headrace_server.embedding import EmbedAsk, EmbedderFacts
from headrace_server.errors import InvalidRequest, UnknownModel
from headrace_server.request import Priority
from headrace_server.rpc.embeddings import MOST_INPUTS
from headrace_server.rpc.readiness import Readiness

SERVER = "headrace"
SERVER_VERSION = version("headrace-server")
MODEL_VERSION = "1"  # the only one: another version of a model is another deployment
INPUT, OUTPUT = "text", "embedding"
TEXT, FLOAT = "BYTES", "FP32"  # the protocol's names
PARAMETERS: Mapping[str, type] = {"dimensions": int, "normalize": bool, "truncate": bool, "priority": str}


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]  # -1: any size


@dataclass(frozen=True, slots=True)
class ModelFacts:
    platform: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


def model_facts(readiness: Readiness) -> ModelFacts:
    """Raises Draining while nothing is known of the model."""
    match readiness.task:
        case Task.EMBED:
            return embedder_facts(readiness.embedder().facts)
        case Task.RERANK:
            return ModelFacts("headrace_reranker")  # like a generator: other protocols have a form for what it does
        case Task.GENERATE | None:
            readiness.answers()
            return ModelFacts("headrace_generator")


def embedder_facts(facts: EmbedderFacts) -> ModelFacts:
    return ModelFacts(
        "headrace_embedder", (Tensor(INPUT, TEXT, (-1,)),), (Tensor(OUTPUT, FLOAT, (-1, facts.dimensions)),)
    )


def check_model(served: str, name: str, model_version: str) -> None:
    """Raises UnknownModel."""
    if name != served:
        raise UnknownModel("model_name", f"{name!r} is not served here; this server serves {served!r}")
    if model_version not in ("", MODEL_VERSION):
        raise UnknownModel("model_version", f"{model_version!r} is not served; leave it out, or ask for version 1")


def embed_ask(
    inputs: Sequence[Tensor], texts: Sequence[str], parameters: Mapping[str, Any], outputs: Sequence[str]
) -> EmbedAsk:
    """`texts`: the elements of the first input. Raises InvalidRequest naming the request's field."""
    _check_input(inputs[0] if len(inputs) == 1 else None, len(inputs), len(texts))
    if strange := [name for name in outputs if name != OUTPUT]:
        raise InvalidRequest("outputs", f"{strange[0]!r} is no output of this model; it has {OUTPUT!r}")
    if empty := [place for place, text in enumerate(texts) if not text]:
        raise InvalidRequest("inputs", f"element {empty[0]} is empty; leave it out")
    _check_parameters(parameters)
    return EmbedAsk(
        inputs=tuple(texts),
        dimensions=parameters.get("dimensions"),
        normalise=parameters.get("normalize"),
        truncate=parameters.get("truncate", False),
        priority=Priority(parameters.get("priority", Priority.STANDARD)),
    )


def _check_input(tensor: Tensor | None, given: int, texts: int) -> None:
    if tensor is None:
        raise InvalidRequest("inputs", f"holds {given} tensors; send one, {INPUT!r} of type {TEXT}")
    if (tensor.name, tensor.datatype) != (INPUT, TEXT):
        raise InvalidRequest(
            "inputs", f"holds {tensor.name!r} of type {tensor.datatype}; this model takes {INPUT!r} of type {TEXT}"
        )
    if tensor.shape not in ((texts,), (texts, 1)):
        raise InvalidRequest("inputs", f"has shape {list(tensor.shape)} and {texts} elements; the shape must be [n]")
    if not 1 <= texts <= MOST_INPUTS:
        raise InvalidRequest("inputs", f"holds {texts} texts; send 1 to {MOST_INPUTS}")


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise InvalidRequest("parameters", f"{name!r} is not known here; leave it out. Known: {list(PARAMETERS)}")
        if type(value) is not PARAMETERS[name]:  # a bool is an int, too
            raise InvalidRequest("parameters", f"{name!r} must be of type {PARAMETERS[name].__name__}")
    if parameters.get("dimensions", 1) < 1:
        raise InvalidRequest("parameters", f"'dimensions' is {parameters['dimensions']}; must be at least 1")
    if (priority := parameters.get("priority")) is not None and priority not in tuple(Priority):
        raise InvalidRequest("parameters", f"'priority' is {priority!r}; must be one of {[*map(str, Priority)]}")
