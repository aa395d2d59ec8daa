"""The adapters of several models as one state: what checkpoints, snapshots and the best weights hold.

The denoiser's keys are what its adapter calls them; those of a text encoder have the encoder's name in front:
`text_encoder.encoder.layers.0.mlp.fc1.lora_A.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainer_core.adapters.adapter import TEXT_ENCODERS

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.adapters.adapter import Adapter
    from trainer_core.train.optim.build import TrainedPart


def parts_state(parts: Sequence[TrainedPart], adapter: Adapter) -> dict[str, Tensor]:
    """Return the state of all adapters, by name; the first part is the denoiser.

    Args:
        parts: the models that carry an adapter.
        adapter: of the denoiser; text encoders carry `TEXT_ENCODERS`.
    """
    state = adapter.state(parts[0].module)
    for part in parts[1:]:
        state |= {f"{part.name}.{key}": tensor for key, tensor in TEXT_ENCODERS.state(part.module).items()}
    return state


def load_parts_state(parts: Sequence[TrainedPart], adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `parts_state` returned, bit for bit."""
    shares = split_state(tensors, [part.name for part in parts[1:]])
    adapter.load_state(parts[0].module, shares[""])
    for part in parts[1:]:
        TEXT_ENCODERS.load_state(part.module, shares[part.name])


def split_state(tensors: Mapping[str, Tensor], text_encoders: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Return text encoder -> its adapter's state, and under the empty name the denoiser's."""
    shares: dict[str, dict[str, Tensor]] = {name: {} for name in ("", *text_encoders)}
    for key, tensor in tensors.items():
        owner, _, rest = key.partition(".")
        known = owner in shares and owner != ""
        shares[owner if known else ""][rest if known else key] = tensor
    return shares
