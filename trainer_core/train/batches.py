"""Micro-batches from cached latents and text embeddings, prepared ahead of the step that needs them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer_core.data.order import Draw, Order
from trainer_core.diffusion.noise import sample_noise, sample_u
from trainer_core.types import Batch, Geometry, TextCondition

RESIDENT_LIMIT = 2 * 2**30
"""Caches up to this many bytes are kept on the training device whole; larger ones are read from their mapped shards."""
AHEAD = 4
"""Micro-batches prepared by a thread while a GPU works."""


@dataclass(frozen=True)
class CachedSamples:
    """What the two cache stages left, by sample id. Tensors may be views of memory-mapped shards."""

    latents: Mapping[str, Tensor]
    text: Mapping[str, TextCondition]
    geometries: Mapping[str, Geometry]
    controls: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict[str, tuple[Tensor, ...]])
    """Sample id -> latents of its control pictures, for those that have some."""

    def nbytes(self) -> int:
        """Bytes of all distinct tensors."""
        seen: dict[int, int] = {}
        controls = (latent for of_sample in self.controls.values() for latent in of_sample)
        texts = (part for one in self.text.values() for part in _parts(one))
        for tensor in (*self.latents.values(), *controls, *texts):
            seen[tensor.data_ptr()] = tensor.nbytes
        return sum(seen.values())

    def resident(self, device: torch.device, dtype: torch.dtype) -> CachedSamples:
        """Return the same samples as owned tensors on `device`: latents float32, embeddings in `dtype`."""
        texts: dict[int, TextCondition] = {}
        for condition in self.text.values():
            if id(condition) not in texts:
                texts[id(condition)] = _moved(condition, device, dtype)
        return CachedSamples(
            {name: tensor.to(device, torch.float32, copy=True) for name, tensor in self.latents.items()},
            {name: texts[id(condition)] for name, condition in self.text.items()},
            self.geometries,
            {
                name: tuple(latent.to(device, torch.float32, copy=True) for latent in of_sample)
                for name, of_sample in self.controls.items()
            },
        )


@dataclass(frozen=True)
class BatchLoader:
    """Builds micro-batch number N from N alone: which samples, their noise and their timestep draw."""

    order: Order
    cache: CachedSamples
    device: torch.device
    dtype: torch.dtype
    noise_offset: float = 0.0
    captions: Callable[[Draw], str] | None = None
    """What a draw's caption is, where captions are encoded batch by batch; None where they were encoded before."""

    def batch(self, number: int) -> Batch:
        """Return micro-batch `number`: latents and noise float32, embeddings in `dtype`, on `device`."""
        draws = self.order.micro_batch(number)
        ids = tuple(draw.sample_id for draw in draws)
        latents = torch.stack([self.cache.latents[name] for name in ids])
        noise = torch.stack([self._noise(draw) for draw in draws])
        u = torch.stack([sample_u(self._seed(draw)) for draw in draws])
        return Batch(
            sample_ids=ids,
            latents=latents.to(self.device, torch.float32, non_blocking=True),
            noise=noise.to(self.device, non_blocking=True),
            u=u.to(self.device, non_blocking=True),
            text=self._text(ids),
            geometries=tuple(self.cache.geometries[name] for name in ids),
            controls=tuple(
                torch.stack(place).to(self.device, torch.float32, non_blocking=True)
                for place in zip(*(self.cache.controls.get(name, ()) for name in ids), strict=True)
            ),
            captions=tuple(self.captions(draw) for draw in draws) if self.captions else (),
        )

    def _text(self, ids: Sequence[str]) -> TextCondition:
        if self.captions is None:
            return stack_text([self.cache.text[name] for name in ids], self.device, self.dtype)
        # The weights of this very step encode it (`LiveText.batch`), not those of the step that it is prepared in.
        return TextCondition(torch.empty(len(ids), 0, 0))

    def stream(self, numbers: Sequence[int] | range) -> Iterator[Batch]:
        """Yield the batches of `numbers`; on a GPU a thread stays `AHEAD` of the consumer."""
        if self.device.type == "cpu":
            # One set of cores does everything: a thread would only take turns with the step.
            return map(self.batch, numbers)
        return _ahead(self, numbers)

    def _seed(self, draw: Draw) -> tuple[int | str, ...]:
        return (self.order.seed, draw.epoch, draw.sample_id, draw.repeat)

    def _noise(self, draw: Draw) -> Tensor:
        shape = tuple(self.cache.latents[draw.sample_id].shape)
        return sample_noise(self._seed(draw), shape, self.noise_offset)


def stack_text(conditions: Sequence[TextCondition], device: torch.device, dtype: torch.dtype) -> TextCondition:
    """Join conditions into a batch on `device`: embeds [B, L, D], pooled [B, P] or None, mask bool [B, L] or None.

    Shorter captions are padded with zeros at the end to the longest of the batch, and the mask tells them apart.
    """
    pooled = [one.pooled for one in conditions if one.pooled is not None]
    embeds, mask = _padded(conditions)
    return TextCondition(
        embeds=embeds.to(device, dtype, non_blocking=True),
        pooled=torch.stack(pooled).to(device, dtype, non_blocking=True) if pooled else None,
        mask=None if mask is None else mask.to(device, non_blocking=True),
    )


def _padded(conditions: Sequence[TextCondition]) -> tuple[Tensor, Tensor | None]:
    lengths = [len(one.embeds) for one in conditions]
    if len(set(lengths)) == 1 and all(one.mask is None for one in conditions):
        return torch.stack([one.embeds for one in conditions]), None
    masks = [torch.ones(len(one.embeds), dtype=torch.bool) if one.mask is None else one.mask for one in conditions]
    embeds = [one.embeds for one in conditions]
    return pad_sequence(embeds, batch_first=True), pad_sequence(masks, batch_first=True, padding_value=False)


def _moved(condition: TextCondition, device: torch.device, dtype: torch.dtype) -> TextCondition:
    return TextCondition(
        condition.embeds.to(device, dtype, copy=True),
        None if condition.pooled is None else condition.pooled.to(device, dtype, copy=True),
        None if condition.mask is None else condition.mask.to(device, copy=True),
    )


def _parts(condition: TextCondition) -> list[Tensor]:
    return [part for part in (condition.embeds, condition.pooled, condition.mask) if part is not None]


def _ahead(loader: BatchLoader, numbers: Sequence[int] | range) -> Iterator[Batch]:
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def offer(item: Batch | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def prepare() -> None:
        try:
            for number in numbers:
                if stopped.is_set():
                    return
                offer(loader.batch(number))
            offer(None)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            offer(error)

    thread = threading.Thread(target=prepare, name="batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
