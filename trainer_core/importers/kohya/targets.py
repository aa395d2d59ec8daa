"""What kohya's networks and LyCORIS's presets adapt, as `adapter.targets`.

Sources: sd-scripts networks/lora.py (`UNET_TARGET_REPLACE_MODULE`), lora_flux.py, oft.py and oft_flux.py; LyCORIS
lycoris/config.py, applied to sd-scripts' own models.
"""

from __future__ import annotations

from trainer_core.importers.core.convert import amount, truth
from trainer_core.importers.core.key_table import Context, Conversion, changed, refused
from trainer_core.importers.core.targets import DOUBLE_ATTENTION, transformer_blocks, unet_blocks

_QKV = "It adapts query, key and value as one matrix, ours each by itself (its `split_qkv`)."
_TIME = "It adapts the time embedding too (2 modules)."


def of_network(module: str, context: Context) -> Conversion:
    """Return what a network of kohya's own adapts.

    Every Linear and 1x1 convolution of the transformer blocks; with `conv_dim` all of the UNet's blocks; the
    attention alone for OFT without `enable_all_linear`.
    """
    if module.startswith("networks.oft") and not truth(context.get("network_args.enable_all_linear")):
        return _attention(context.family)
    if amount(context.get("network_args.conv_dim")) and not context.flow:
        return unet_blocks()
    return transformer_blocks(context.family, _QKV if context.family == "flux1" else "")


def of_lycoris(preset: str, family: str) -> Conversion:
    """Return what a preset of LyCORIS adapts in sd-scripts' models."""
    unet = family in ("sd15", "sdxl")
    if preset in ("full", "unet-only") and family == "sd15":
        return Conversion({"adapter.targets": ".*"}, note="It adapts the whole UNet.")
    if preset in ("full", "unet-only") and unet:
        return unet_blocks()
    if preset == "full-lin" and unet:
        blocks: dict[str, object] = {"adapter.targets": "unet-blocks"}
        return changed(blocks, _TIME) if family == "sd15" else Conversion(blocks)
    if preset in ("full", "unet-only", "full-lin", "attn-mlp", "unet-transformer-only"):
        return transformer_blocks(family, _QKV if family == "flux1" else "")
    if preset == "attn-only":
        return _attention(family)
    return refused("Write the modules that it adapts in `adapter.targets`: a regex over module names.")


def _attention(family: str) -> Conversion:
    """Return attention alone; in FLUX.1's single blocks it is one matrix with the MLP, which the tools leave out."""
    return Conversion({"adapter.targets": DOUBLE_ATTENTION if family == "flux1" else "attention"})
