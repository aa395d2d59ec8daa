"""kohya's ranks of blocks (`network_args`), by number or, for FLUX.1, by kind of layer -> `adapter.blocks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainer_core.importers.core.convert import amount, number, several_numbers
from trainer_core.importers.core.key_table import Context, Conversion, Row, dropped, refused, several
from trainer_core.types import JSON

_BLOCKS: Mapping[str, int] = {"sd15": 25, "sdxl": 23}
"""Family -> how many blocks kohya counts."""
_FLUX_LAYERS: Mapping[str, str] = {
    "img_attn_dim": r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0)",
    "txt_attn_dim": r"transformer_blocks\.\d+\.attn\.(add_[qkv]_proj|to_add_out)",
    "img_mlp_dim": r"transformer_blocks\.\d+\.ff\.net\..*",
    "txt_mlp_dim": r"transformer_blocks\.\d+\.ff_context\.net\..*",
    "img_mod_dim": r"transformer_blocks\.\d+\.norm1\.linear",
    "txt_mod_dim": r"transformer_blocks\.\d+\.norm1_context\.linear",
    "single_dim": r"single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out)",
    "single_mod_dim": r"single_transformer_blocks\.\d+\.norm\.linear",
}
_DOUBLE, _SINGLE = r"transformer_blocks\..*", r"single_transformer_blocks\..*"
_COUNTS: Mapping[str, tuple[str, int]] = {
    "train_double_block_indices": ("transformer_blocks", 19),
    "train_single_block_indices": ("single_transformer_blocks", 38),
}


def _attention(family: str, block: int) -> str:
    """Return the module (diffusers' name) that a block number of kohya's stands for, or nothing without attention."""
    if family == "sd15":
        down, up, middle = divmod(block - 1, 3), divmod(block - 13, 3), block == 12
        is_down, is_up = 1 <= block <= 11 and down[0] < 3 and down[1] < 2, block >= 13 and up[0] > 0
    else:
        # 0 is the embedding, 1 to 9 the input blocks from 0, 10 to 12 the middle, 13 to 21 the output blocks from 0.
        down, up, middle = divmod(block - 2, 3), divmod(block - 13, 3), block == 11
        is_down, is_up = 2 <= block <= 9 and down[0] > 0 and down[1] < 2, block >= 13 and up[0] < 2
    if middle:
        return r"mid_block\.attentions\.0"
    if is_down:
        return rf"down_blocks\.{down[0]}\.attentions\.{down[1]}"
    return rf"up_blocks\.{up[0]}\.attentions\.{up[1]}" if is_up else ""


def numbered(context: Context) -> dict[str, JSON] | None:
    """Write `block_dims` and `block_alphas` as regexes; None where the lists have not the family's length."""
    count = _BLOCKS.get(context.family, 0)
    rank, alpha = context.get("network_dim", 4), context.get("network_alpha", 1)
    ranks = several_numbers(context.get("network_args.block_dims", [rank] * count))
    alphas = several_numbers(context.get("network_args.block_alphas", [alpha] * count))
    if not count or len(ranks) != count or len(alphas) != count:
        return None
    groups: dict[tuple[JSON, JSON], list[str]] = {}
    for block, pair in enumerate(zip(ranks, alphas, strict=True)):
        if (name := _attention(context.family, block)) and pair != (number(rank), number(alpha)):
            groups.setdefault(pair, []).append(name)
    return {rf"({'|'.join(names)})\..*": _block(*pair) for pair, names in groups.items()}


def layers(context: Context) -> dict[str, JSON]:
    """Write FLUX.1's choices of blocks and ranks of layers as regexes, blocks that are left out first."""
    found: dict[str, JSON] = {}
    alpha = context.get("network_alpha", 1)
    chosen = context.get("network_args.train_blocks")
    for kind, pattern in (("single", _DOUBLE), ("double", _SINGLE)):
        if chosen == kind:
            found[pattern] = _block(0, alpha)
    for key, (blocks, count) in _COUNTS.items():
        wanted = context.get(f"network_args.{key}")
        left = (
            []
            if wanted is None
            else [str(one) for one in range(count) if one not in set(_selected(str(wanted), count))]
        )
        if left:
            found[rf"{blocks}\.({'|'.join(left)})\..*"] = _block(0, alpha)
    for key, pattern in _FLUX_LAYERS.items():
        rank = context.get(f"network_args.{key}")
        if rank is not None:
            found[pattern] = _block(rank, alpha)
    return found


def _selected(written: str, count: int) -> Iterator[int]:
    """Read `all`, `none` or `0-3,5`."""
    if written == "all":
        yield from range(count)
    for part in written.strip("[]() ").split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal():
            yield from range(int(first), int(last or first) + 1)


def _block(rank: JSON, alpha: JSON) -> dict[str, JSON]:
    whole = int(amount(rank))
    return {"rank": whole, "alpha": number(alpha)} if whole else {"rank": 0}


def _lists(value: JSON, context: Context) -> JSON:
    found = numbered(context)
    if found is None:
        return refused(
            "Write ranks of blocks as `adapter.blocks`: a regex over module names, with a rank and an alpha."
        )
    return Conversion({"adapter.blocks": found}) if found else dropped("All blocks have the same value.")


def _layers(value: JSON, context: Context) -> JSON:
    if context.family != "flux1":
        return refused("Write it as `adapter.blocks`: a regex over module names, with a rank and an alpha.")
    found = layers(context)
    return Conversion({"adapter.blocks": found}) if found else dropped("All blocks have the same value.")


ROWS: list[Row] = [
    several(f"network_args.{key}", "adapter.blocks", convert, note)
    for keys, convert, note in (
        (
            ("block_dims", "block_alphas"),
            _lists,
            "The numbers are those of the 25 blocks of SD1.5 or the 23 of SDXL; 0 leaves a block out.",
        ),
        (("train_blocks", *_COUNTS, *_FLUX_LAYERS), _layers, "FLUX.1's blocks and layers; 0 leaves them out."),
    )
    for key in keys
]
