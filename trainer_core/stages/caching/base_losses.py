"""Held-out losses of a base, which every run on it and every examination of its LoRAs share: measured once.

They are remembered in the store's index by all that decides them, a sample at a time. Where the index is lost, they are
measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from trainer_core.data.epoch.held_out import LEVELS
from trainer_core.stages.caching.entries import control_keys_of, keys_of
from trainer_core.store.keys import digest

if TYPE_CHECKING:
    from trainer_core.config.groups import NoiseConfig
    from trainer_core.families.spec import PrecisionName
    from trainer_core.families.storage.schemes import Storage
    from trainer_core.sampling.evaluate import HeldOut
    from trainer_core.stages.project.workspace import Workspace
    from trainer_core.store import Published
    from trainer_core.store.index import Index
    from trainer_core.types import JSON, Sample

    Losses = dict[str, dict[int, float]]

_KIND = "held-out losses of a base, 1"
"""Raise the number when a loss of the same samples would come out otherwise."""


@dataclass(frozen=True)
class BaseLosses:
    """The remembered losses of some held-out samples, at all noise levels."""

    index: Index
    keys: Mapping[str, str]
    """Sample id -> digest of what decides its losses."""

    def complete(self, samples: Sequence[HeldOut], measure: Callable[[Sequence[HeldOut]], Losses]) -> Losses:
        """Return the losses of samples at all levels.

        Args:
            samples: held-out samples, each with a key.
            measure: measures the base at all levels; called once, for those that are not known.

        Raises:
            StoreError: the index cannot be written.
        """
        facts = self.index.facts(_KIND, [self.keys[sample.sample_id] for sample in samples])
        known = {
            sample.sample_id: dict(enumerate(facts[self.keys[sample.sample_id]]))
            for sample in samples
            if self.keys[sample.sample_id] in facts
        }
        if missing := [sample for sample in samples if sample.sample_id not in known]:
            measured = measure(missing)
            rows = {name: [by_level[level] for level in range(LEVELS)] for name, by_level in measured.items()}
            self.index.remember(_KIND, {self.keys[name]: row for name, row in rows.items()})
            known |= measured
        return known


def base_losses(
    workspace: Workspace,
    noise: NoiseConfig,
    precision: PrecisionName,
    upstream: Mapping[str, Published],
    storage: Storage,
) -> BaseLosses:
    """Return the remembered losses of a project's held-out samples.

    Args:
        workspace: its base and its samples.
        noise: which noise is added.
        precision: of the denoiser.
        upstream: the results of `cached_latents` and `cached_text_embeddings`.
        storage: how the base is held.
    """
    spec, device = workspace.family.spec, workspace.profile.device
    weights = workspace.weights(spec.denoiser_components)
    held: list[JSON] = [] if storage.dense else [storage.key]
    common = digest([weights, precision, spec.identity, device, noise.model_dump(mode="json"), *held])
    samples = [sample for sample in workspace.manifest.samples if sample.split == "held_out"]
    ids = [sample.id for sample in samples]
    entries = [keys_of(upstream[name], ids) for name in ("cached_latents", "cached_text_embeddings")]
    controls = control_keys_of(upstream["cached_latents"], samples)
    keys = {
        sample.id: digest([common, _of_sample(sample), [each[sample.id] for each in entries], controls.get(sample.id)])
        for sample in samples
    }
    return BaseLosses(workspace.store.index, keys)


def _of_sample(sample: Sample) -> JSON:
    # The noise is drawn from the sample's id.
    return [sample.id, asdict(sample.geometry)]
