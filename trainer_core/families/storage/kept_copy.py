"""A file of a model as it lies in memory, packed: read again, it is the same model without quantising anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

_CODES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
    "int32": "I32",
    "int64": "I64",
    "bool": "BOOL",
}
"""torch's name of a dtype -> that of safetensors."""


def write(path: Path, model: Any) -> None:
    """Write a model's tensors as .safetensors, one after another: there is no second copy of them in memory."""
    shown: dict[str, Tensor] = model.state_dict()
    # quantised layers show a stand-in for their weight beside what they hold
    tensors = {name: each for name, each in shown.items() if f"{name.removesuffix('.weight')}.packed" not in shown}
    # the widest numbers first, so that each tensor begins at a multiple of its numbers' size
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = dict[str, Any](), 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        code = _CODES[str(tensors[name].dtype).removeprefix("torch.")]
        header[name] = {"dtype": code, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(memoryview(flat.numpy().data))
