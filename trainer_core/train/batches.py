"""Micro-batches from cached latents and text embeddings, prepared ahead of the step that needs them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer_core.data.epoch.batch_order import BatchOrder, Draw
from trainer_core.diffusion.noise import derive_seed, sample_u
from trainer_core.diffusion.noise_shape import WHITE, NoiseShape
from trainer_core.train.caption_choice import TextChoice
from trainer_core.types import Batch, Geometry, TextCondition

AHEAD = 4
"""Micro-batches prepared by a thread while a GPU works."""


@dataclass(frozen=True)
class CachedSamples:
    """Cached latents and text embeddings by sample id. Tensors may be views of memory-mapped shards.

    Where samples have several views, latents, geometries and masks are by the name of a view, as `views` lists them.
    """

    latents: Mapping[str, Tensor]
    text: Mapping[str, TextCondition]
    """By sample id, or by what `TextChoice` names."""
    geometries: Mapping[str, Geometry]
    controls: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict[str, tuple[Tensor, ...]])
    """Sample id -> latents of its control pictures, for those that have some."""
    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Sample id -> names of its views, for those that have several."""
    masks: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Name of a view -> mask [1, h, w] in [0, 1], for those that have one."""

    def resident_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of all distinct tensors in the dtypes that `resident` keeps them in."""
        controls = (latent for of_sample in self.controls.values() for latent in of_sample)
        pictures = {one.data_ptr(): one.numel() for one in (*self.latents.values(), *self.masks.values(), *controls)}
        texts = {part.data_ptr(): part for condition in self.text.values() for part in _parts(condition)}
        of_texts = sum(part.numel() * (1 if part.dtype == torch.bool else dtype.itemsize) for part in texts.values())
        return sum(pictures.values()) * torch.float32.itemsize + of_texts

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
            views=self.views,
            masks={name: mask.to(device, torch.float32, copy=True) for name, mask in self.masks.items()},
        )


@dataclass(frozen=True)
class BatchLoader:
    """Builds micro-batch number N from N alone: which samples, their noise and their timestep draw."""

    order: BatchOrder
    cache: CachedSamples
    device: torch.device
    dtype: torch.dtype
    noise: NoiseShape = WHITE
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """Sample id -> factor of its loss; 1 where it is not named."""
    choice: TextChoice | None = None
    """None where every draw has the text of its sample id."""
    captions: Callable[[Draw], str] | None = None
    """Draw -> its caption, where captions are encoded batch by batch; None where they were encoded before."""

    def batch(self, number: int) -> Batch:
        """Return micro-batch `number`: latents and noise float32, embeddings in `dtype`, on `device`."""
        draws = self.order.micro_batch(number)
        ids = tuple(draw.sample_id for draw in draws)
        views = [self._view(draw) for draw in draws] if self.cache.views else ids
        latents = torch.stack([self.cache.latents[name] for name in views])
        noises = [
            self.noise.draw(self._seed(draw), self.cache.latents[name]) for draw, name in zip(draws, views, strict=True)
        ]
        noise = torch.stack(noises)
        u = torch.stack([sample_u(self._seed(draw)) for draw in draws])
        return Batch(
            sample_ids=ids,
            latents=latents.to(self.device, torch.float32, non_blocking=True),
            noise=noise.to(self.device, non_blocking=True),
            u=u.to(self.device, non_blocking=True),
            text=self._drawn_text(draws),
            geometries=tuple(self.cache.geometries[name] for name in views),
            controls=tuple(
                torch.stack(latents_of_one).to(self.device, torch.float32, non_blocking=True)
                for latents_of_one in zip(*(self.cache.controls.get(name, ()) for name in ids), strict=True)
            ),
            loss_weights=self._loss_weights(ids),
            input_noise=self._input_noise(draws, noises),
            class_text=self._class_text(ids),
            masks=self._masks(views) if self.cache.masks else None,
            captions=tuple(self.captions(draw) for draw in draws) if self.captions else (),
        )

    def _drawn_text(self, draws: Sequence[Draw]) -> TextCondition:
        if self.captions is None:
            return self._text([self._chosen(draw) for draw in draws])
        # `LiveText.batch` encodes it with the weights of its own step, not those of the step in which it is prepared.
        return TextCondition(torch.empty(len(draws), 0, 0))

    def stream(self, numbers: Sequence[int] | range) -> Iterator[Batch]:
        """Yield the batches of `numbers`; on a GPU a thread stays `AHEAD` of the consumer."""
        if self.device.type == "cpu":
            # One set of cores does everything: a thread would only take turns with the step.
            return map(self.batch, numbers)
        return _ahead(self, numbers)

    def _chosen(self, draw: Draw) -> str:
        return draw.sample_id if self.choice is None else self.choice.of(draw, self.order.seed)

    def _class_text(self, ids: Sequence[str]) -> TextCondition | None:
        classes = {} if self.choice is None else self.choice.classes
        return self._text([classes[name] for name in ids]) if classes else None

    def _text(self, names: Sequence[str]) -> TextCondition:
        return stack_text([self.cache.text[name] for name in names], self.device, self.dtype)

    def _view(self, draw: Draw) -> str:
        """Return the name of the view that a draw trains on: each with equal probability."""
        views = self.cache.views.get(draw.sample_id)
        return draw.sample_id if views is None else views[derive_seed("view", self._seed(draw)) % len(views)]

    def _masks(self, views: Sequence[str]) -> Tensor | None:
        """Return [B, 1, h, w], ones for those without a mask; None where none of the batch has one."""
        masks = [self.cache.masks.get(name) for name in views]
        if not any(mask is not None for mask in masks):
            return None
        like = self.cache.latents[views[0]]
        whole = torch.ones((1, *like.shape[-2:]), device=like.device)
        stacked = torch.stack([whole if mask is None else mask.to(torch.float32) for mask in masks])
        return stacked.to(self.device, non_blocking=True)

    def _seed(self, draw: Draw) -> tuple[int | str, ...]:
        return (self.order.seed, draw.epoch, draw.sample_id, draw.repeat)

    def _input_noise(self, draws: Sequence[Draw], noises: Sequence[Tensor]) -> Tensor | None:
        if not self.noise.ip_gamma:
            return None
        perturbed = [self.noise.perturbed(self._seed(draw), noise) for draw, noise in zip(draws, noises, strict=True)]
        return torch.stack(perturbed).to(self.device, non_blocking=True)

    def _loss_weights(self, ids: Sequence[str]) -> Tensor | None:
        if not self.weights:
            return None
        return torch.tensor([self.weights.get(name, 1.0) for name in ids]).to(self.device, non_blocking=True)


def stack_text(conditions: Sequence[TextCondition], device: torch.device, dtype: torch.dtype) -> TextCondition:
    """Join conditions into a batch on `device`: embeds [B, L, D], pooled [B, P] or None, mask bool [B, L] or None.

    Shorter captions are padded with zeros at the end to the longest of the batch, and the mask tells them apart.
    """
    pooled = [condition.pooled for condition in conditions if condition.pooled is not None]
    embeds, mask = _padded(conditions)
    return TextCondition(
        embeds=embeds.to(device, dtype, non_blocking=True),
        pooled=torch.stack(pooled).to(device, dtype, non_blocking=True) if pooled else None,
        mask=None if mask is None else mask.to(device, non_blocking=True),
        lengths=_lengths(conditions),
    )


def _lengths(conditions: Sequence[TextCondition]) -> tuple[int, ...] | None:
    """Return the number of tokens of each caption; None where some of them are masked."""
    if any(condition.mask is not None for condition in conditions):
        return None
    return tuple(len(condition.embeds) for condition in conditions)


def _padded(conditions: Sequence[TextCondition]) -> tuple[Tensor, Tensor | None]:
    embeds = [condition.embeds for condition in conditions]
    given = [condition.mask for condition in conditions]
    if len(set(map(len, embeds))) == 1 and all(mask is None for mask in given):
        return torch.stack(embeds), None
    masks = [
        torch.ones(len(rows), dtype=torch.bool) if mask is None else mask
        for rows, mask in zip(embeds, given, strict=True)
    ]
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
