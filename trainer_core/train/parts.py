"""The adapters of several models as one state: what checkpoints, snapshots and the best weights hold.

The denoiser's keys are what its adapter calls them; those of a text encoder have the encoder's name in front:
`text_encoder.encoder.layers.0.mlp.fc1.lora_A.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer_core.train.optimizers import TrainedPart


def parts_state(parts: Sequence[TrainedPart], state: Callable[[nn.Module], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the state of all adapters, by name; the first part is the denoiser.

    Args:
        parts: the models that carry an adapter.
        state: of one model's adapter, such as `adapters.lora.state`.
    """
    found = state(parts[0].module)
    for part in parts[1:]:
        found |= {f"{part.name}.{key}": tensor for key, tensor in state(part.module).items()}
    return found


def load_parts_state(
    parts: Sequence[TrainedPart], load: Callable[[nn.Module, Mapping[str, Tensor]], None], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `parts_state` returned, bit for bit."""
    shares = split_state(tensors, [part.name for part in parts[1:]])
    for part in parts:
        load(part.module, shares["" if part is parts[0] else part.name])


def split_state(tensors: Mapping[str, Tensor], text_encoders: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Return text encoder -> its adapter's state, and under the empty name the denoiser's."""
    shares: dict[str, dict[str, Tensor]] = {name: {} for name in ("", *text_encoders)}
    for key, tensor in tensors.items():
        owner, _, rest = key.partition(".")
        known = owner in shares and owner != ""
        shares[owner if known else ""][rest if known else key] = tensor
    return shares
