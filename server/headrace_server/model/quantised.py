"""Matrices in 8 or 4 bits, by rounding to nearest: the numbers, without the kernels that multiply with them.

INT8 is symmetric with a scale for each output, as Dettmers et al. 2022 (LLM.int8()); INT4 has a scale and an offset for
each group of weights of an output, the form that torch's own kernels for 4 bits take.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.config import WeightFormat
from headrace_server.errors import ModelRefused
from headrace_server.model.quantisation import GROUPS, Quantisation

MOST = 127  # of an INT8: -128 is not used, so that both sides are alike
LEVELS, MIDDLE = 16, 8  # of an INT4
SCALES, OFFSETS = "_scale", "_offset"  # behind the name of a weight, in a converted checkpoint
LEAST_SCALE = 1e-30  # where all weights of a scale are equal


@dataclass(frozen=True, slots=True)
class Int8:
    """weight = value * scale of its output"""

    values: Tensor  # int8 (out, in)
    scales: Tensor  # float32 (out)

    def dense(self) -> Tensor:
        """float32 (out, in)"""
        return self.values * self.scales.unsqueeze(1)

    def chunk(self, parts: int) -> list["Int8"]:
        """By outputs."""
        return [Int8(*each) for each in zip(self.values.chunk(parts), self.scales.chunk(parts), strict=True)]


@dataclass(frozen=True, slots=True)
class Int4:
    """weight = (value - 8) * scale + offset, both of its group"""

    values: Tensor  # uint8 (out, in), 0 to 15
    scales: Tensor  # float32 (out, in / group)
    offsets: Tensor  # likewise

    @property
    def group_size(self) -> int:
        return self.values.shape[1] // self.scales.shape[1]

    def dense(self) -> Tensor:
        """float32 (out, in)"""
        grouped = _grouped(self.values.float() - MIDDLE, self.group_size)
        return (grouped * self.scales.unsqueeze(2) + self.offsets.unsqueeze(2)).flatten(1)

    def packed(self) -> Tensor:
        """uint8 (out, in / 2): two values a byte, the first one in its low bits."""
        return self.values[:, ::2] | (self.values[:, 1::2] << 4)


Quantised = Int8 | Int4


def unpacked(packed: Tensor) -> Tensor:
    """What `Int4.packed` was made of."""
    return torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)


def joined(parts: Sequence[Quantised]) -> Quantised:
    """One above the other; all of one kind."""
    first = parts[0]
    kind = type(first)
    return kind(*(torch.cat([getattr(part, name) for part in parts]) for name in kind.__slots__))


def stored_tensors(name: str, matrix: Quantised) -> dict[str, Tensor]:
    """What a converted checkpoint holds of it, by name."""
    if isinstance(matrix, Int8):
        return {name: matrix.values, f"{name}{SCALES}": matrix.scales}
    return {name: matrix.packed(), f"{name}{SCALES}": matrix.scales, f"{name}{OFFSETS}": matrix.offsets}


def from_stored(name: str, how: Quantisation, read: Callable[[str], Tensor]) -> Quantised:
    """What `stored_tensors` was made of."""
    values, scales = read(name), read(f"{name}{SCALES}")
    if how.weights is WeightFormat.INT8:
        return Int8(values, scales)
    return Int4(unpacked(values), scales, read(f"{name}{OFFSETS}"))


def shapes_stored(name: str, size: tuple[int, int], how: Quantisation) -> dict[str, tuple[int, ...]]:
    rows, columns = size
    if how.weights is WeightFormat.INT8:
        return {name: size, f"{name}{SCALES}": (rows,)}
    groups = (rows, columns // (how.group_size or columns))
    return {name: (rows, columns // 2), f"{name}{SCALES}": groups, f"{name}{OFFSETS}": groups}


def dtypes_stored(name: str, how: Quantisation) -> dict[str, torch.dtype]:
    values = torch.int8 if how.weights is WeightFormat.INT8 else torch.uint8
    return {name: values} | {each: torch.float32 for each in shapes_stored(name, (1, 1), how) if each != name}


def quantised(name: str, weight: Tensor, how: Quantisation) -> Quantised:
    """weight float32 (out, in). `name` is for the error. Raises ModelRefused where groups do not divide a row."""
    if how.weights is WeightFormat.INT8:
        return _int8(weight)
    size = how.group_size or weight.shape[1]
    if weight.shape[1] % size:
        fitting = [str(each) for each in GROUPS if weight.shape[1] % each == 0]
        remedy = f"groups of {' or '.join(fitting)} do" if fitting else "no supported group does; take int8"
        raise ModelRefused(f"{name} has {weight.shape[1]} inputs, which groups of {size} do not divide; {remedy}")
    return _int4(weight, size)


def _int8(weight: Tensor) -> Int8:
    scales = (weight.abs().amax(dim=1) / MOST).clamp(min=LEAST_SCALE)
    return Int8((weight / scales.unsqueeze(1)).round().to(torch.int8), scales)


def _int4(weight: Tensor, group: int) -> Int4:
    grouped = _grouped(weight, group)
    least, most = grouped.amin(dim=2), grouped.amax(dim=2)
    scales = ((most - least) / (LEVELS - 1)).clamp(min=LEAST_SCALE)
    values = ((grouped - least.unsqueeze(2)) / scales.unsqueeze(2)).round().clamp(0, LEVELS - 1)
    return Int4(values.to(torch.uint8).flatten(1), scales, least + MIDDLE * scales)


def _grouped(x: Tensor, size: int) -> Tensor:
    """(out, in) -> (out, in / size, size)"""
    return x.view(len(x), -1, size)
