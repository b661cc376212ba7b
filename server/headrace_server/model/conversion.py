"""`headrace quantize`: a checkpoint's matrices in fewer bits, written so that a server reads nothing else of them.

One file a layer, so that memory for one layer is enough. config.json comes last: what was interrupted is no checkpoint.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture, read_architecture
from headrace_server.model.checkpoint import INDEX, PICKLED, SINGLE, Checkpoint, files_in
from headrace_server.model.quantisation import FIELD, Quantisation, check_layers, stored
from headrace_server.model.quantised import quantised, stored_tensors
from headrace_server.model.weights import EMBEDDING, HEAD_WEIGHT, check_names, expected_shapes, quantised_matrices

CONFIG = "config.json"
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Converted:
    bytes_before: int  # of the tensors
    bytes_after: int


def convert(source: Path, target: Path, how: Quantisation, on_part: Callable[[str], None]) -> Converted:
    """`on_part` hears what is converted next. Raises ModelRefused; FileExistsError if `target` holds anything."""
    shape = read_architecture(source)
    if stored(source) is not None:
        raise ModelRefused(f"{source} was converted already; give the checkpoint that it was made of")
    check_layers(how, shape.layers)
    shapes = expected_shapes(shape)
    checkpoint = Checkpoint(files_in(source), shapes)
    check_names(source, set(checkpoint.files), set(shapes), shape)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; name a folder that is to be made")
    target.mkdir(parents=True, exist_ok=True)
    where: dict[str, str] = {}
    before = after = 0
    for number, (part, names) in enumerate(_parts(shape, shapes, how)):
        on_part(part)
        tensors, read = _tensors(checkpoint, names, how)
        file = f"model-{number:05}.safetensors"
        save_file(tensors, target / file)
        where |= dict.fromkeys(tensors, file)
        before += read
        after += sum(tensor.nbytes for tensor in tensors.values())
    (target / INDEX).write_text(json.dumps({"metadata": {"total_size": after}, "weight_map": where}, indent=1))
    _copy_others(source, target)
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    (target / CONFIG).write_text(json.dumps(config | {FIELD: how.as_config()}, indent=2) + "\n")
    return Converted(before, after)


@dataclass(frozen=True, slots=True)
class _Names:
    kept: tuple[str, ...]
    converted: dict[str, str]  # the name that it gets -> the matrix that it is made of


def _parts(shape: Architecture, shapes: dict[str, tuple[int, ...]], how: Quantisation) -> Iterator[tuple[str, _Names]]:
    matrices = quantised_matrices(shape, how)
    for index in range(shape.layers):
        prefix = f"model.layers.{index}."
        names = [name for name in shapes if name.startswith(prefix)]
        converted = {name: name for name in names if name in matrices}
        yield prefix[:-1], _Names(tuple(name for name in names if name not in matrices), converted)
    others = tuple(name for name in shapes if not name.startswith("model.layers.") and name not in matrices)
    head = {HEAD_WEIGHT: EMBEDDING if shape.tied else HEAD_WEIGHT} if HEAD_WEIGHT in matrices else {}
    yield "embedding and output matrix", _Names(others, head)


def _tensors(checkpoint: Checkpoint, names: _Names, how: Quantisation) -> tuple[dict[str, Tensor], int]:
    """And the bytes that were read."""
    with checkpoint.reading(CPU, dtype=None) as read:
        tensors = {name: read(name) for name in names.kept}
        total = sum(tensor.nbytes for tensor in tensors.values())
        for name, made_of in names.converted.items():
            weight = read(made_of)
            total += weight.nbytes if made_of not in tensors else 0
            tensors |= stored_tensors(name, quantised(name, weight.float(), how))
    return tensors, total


def _copy_others(source: Path, target: Path) -> None:
    """Tokenizer, chat template and whatever else is no weight."""
    weights = {path for pattern in ("*.safetensors", *PICKLED) for path in source.glob(pattern)}
    for path in sorted(source.iterdir()):
        if path.is_file() and path not in weights and path.name not in (CONFIG, INDEX, SINGLE):
            shutil.copyfile(path, target / path.name)
