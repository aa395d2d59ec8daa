"""The entries of a picture in `cached_latents`: one a view, one a mask of a view, one a control picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer_core.data.discovery.controls import control_geometry
from trainer_core.data.pictures.crops_and_views import key_parts, view_geometry, view_id, views_of
from trainer_core.data.pictures.mask_crop import MASKS_VERSION
from trainer_core.data.sample_identity import geometry_parts
from trainer_core.families.spec import FamilySpec
from trainer_core.stages.caching.entries import control_id, control_parts, entry_key, read_items
from trainer_core.stages.stage import CacheItem
from trainer_core.store.keys import canonical_json, digest
from trainer_core.types import JSON, Bucket, Geometry, Sample, View

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.store import Published, Store


class Picture(NamedTuple):
    """A picture to encode, or a mask to bring to the latents' size."""

    name: str
    """`view_id`, `mask_id` or `control_id`."""
    path: Path
    sha256: str
    view: View
    alpha: bool = False
    """For masks: it is the alpha channel of the picture at `path`."""

    @property
    def size(self) -> Bucket:
        """What a batch shares."""
        height, width = self.view.geometry.target
        return Bucket(width, height)


def mask_id(view: str) -> str:
    """Return the name of a mask's entry, by that of its view."""
    return f"{view} [mask]"


def views_to_encode(sample: Sample) -> list[Picture]:
    """Return the views of a sample as the VAE is to see them."""
    return [
        Picture(view_id(sample.id, number), sample.path, sample.picture, view)
        for number, view in enumerate(views_of(sample))
    ]


def controls_to_encode(sample: Sample, spec: FamilySpec) -> list[Picture]:
    """Return the control pictures of a sample as the VAE is to see them."""
    control = spec.control
    if control is None or not sample.controls:
        return []
    return [
        Picture(control_id(sample.id, number), one.path, one.picture, View(control_geometry(one, control.crop)))
        for number, one in enumerate(sample.controls)
    ]


def masks_to_cut(sample: Sample) -> list[Picture]:
    """Return the mask of a sample as it lies over each of its views."""
    mask = sample.mask
    if mask is None:
        return []
    return [
        Picture(
            mask_id(view_id(sample.id, number)), mask.path, mask.picture, View(view.geometry, view.flip), mask.alpha
        )
        for number, view in enumerate(views_of(sample))
    ]


def items_of(
    sample: Sample, spec: FamilySpec, base: str, common: Mapping[str, JSON]
) -> Iterator[tuple[str, CacheItem]]:
    """Yield the entries of a sample by name.

    Args:
        sample: of the manifest.
        spec: its `latent_factor` is the size of masks.
        base: digest of `common`.
        common: what all latents share: VAE, precision, rules.
    """
    for picture in views_to_encode(sample):
        yield picture.name, _view_item(picture, base, common)
    for picture, named in zip(controls_to_encode(sample, spec), control_parts(sample), strict=True):
        shape = geometry_parts(picture.view.geometry)
        parts: dict[str, JSON] = {"controls": [named], "control size": shape} | dict(common)
        yield picture.name, CacheItem(entry_key(base, picture.sha256, str(shape)), parts)
    for picture in masks_to_cut(sample):
        yield picture.name, _mask_item(picture, spec.latents.factor)


def _view_item(picture: Picture, base: str, common: Mapping[str, JSON]) -> CacheItem:
    """Return the entry of a view. One that is cut and nothing else has the key it had before there were views."""
    shape, changed = geometry_parts(picture.view.geometry), key_parts(picture.view)
    text = f"{shape} {canonical_json(changed).decode()}" if changed else str(shape)
    parts: dict[str, JSON] = {"picture": picture.sha256, "geometry": shape} | changed
    return CacheItem(entry_key(base, picture.sha256, text), parts | dict(common))


def _mask_item(picture: Picture, factor: int) -> CacheItem:
    """Return the entry of a mask: no VAE has a part in it. `factor`: pixels to one of a latent."""
    parts: dict[str, JSON] = {
        "mask": picture.sha256,
        "alpha": picture.alpha,
        "geometry": geometry_parts(picture.view.geometry),
        "latent factor": factor,
        "mask rule": MASKS_VERSION,
        **key_parts(picture.view),
    }
    return CacheItem(digest(parts), parts)


def extra_names(sample: Sample) -> list[str]:
    """Return the names of a sample's entries beside the first view and the control pictures."""
    names = [view_id(sample.id, number) for number in range(1, len(sample.views))]
    if sample.mask is not None:
        names += [mask_id(name) for name in (sample.id, *names)]
    return names


def view_geometries(samples: Sequence[Sample]) -> dict[str, Geometry]:
    """Return the geometry of every view, by the name of its entry."""
    return {
        view_id(sample.id, number): view_geometry(view)
        for sample in samples
        for number, view in enumerate(views_of(sample))
    }


def view_ids(samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    """Return sample id -> names of its views' entries, for samples with several."""
    return {
        sample.id: tuple(view_id(sample.id, number) for number in range(len(sample.views)))
        for sample in samples
        if len(sample.views) > 1
    }


def mask_keys_of(published: Published, samples: Sequence[Sample]) -> dict[str, str]:
    """Return name of a view's entry -> entry key of the mask over it, for those samples that have one."""
    masked = [sample for sample in samples if sample.mask is not None]
    items = read_items(published) if masked else {}
    names = [view_id(sample.id, number) for sample in masked for number in range(len(views_of(sample)))]
    return {name: str(items[mask_id(name)]["key"]) for name in names}


def read_masks(store: Store, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """Return masks [1, h, w] by the name of their view's entry, verified, as views of mapped shards.

    Raises:
        DamagedEntries: some were damaged; they were dropped and must be encoded again.
    """
    found = store.entries.read(list(dict.fromkeys(keys.values()))) if keys else {}
    return {name: found[key]["mask"] for name, key in keys.items()}
