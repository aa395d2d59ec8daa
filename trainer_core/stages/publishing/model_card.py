"""The model card of a project: `outputs/NAME/README.md`, written anew when what it says has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pydantic_core import to_jsonable_python

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.confidence import noise_of_mean
from trainer_core.config.fields import field_rows
from trainer_core.config.project import Project
from trainer_core.export.card import facts as card
from trainer_core.export.card.document import model_card
from trainer_core.export.card.facts import Figure, Rendered, TrainingData
from trainer_core.export.formats import formats
from trainer_core.stages.project.session import Session
from trainer_core.stages.publishing.lora_names import LORA, published_names
from trainer_core.stages.rendering.prompts import project_prompts
from trainer_core.stages.results import ExamFigures, TrainingReport
from trainer_core.store import Published
from trainer_core.store.disk import write_atomic
from trainer_core.store.keys import digest, sha256_file
from trainer_core.types import JSON, FileStat, Verdict

if TYPE_CHECKING:
    from trainer_core.export.card.facts import CardFacts

CARD = "README.md"
_KIND = "model card 2"
_FIGURES = {
    "held_out_loss": "held-out loss",
    "concept_score": "concept score, by the judge",
    "following": "prompt following, by the judge",
    "diversity": "diversity between seeds",
    "clip_concept_score": "CLIP score of concept prompts",
    "clip_following": "CLIP score of other prompts",
}
_SHARES = ("concept_score", "following")
_ALWAYS_SHOWN = (
    *("adapter.type", "adapter.rank", "adapter.alpha", "adapter.targets", "optimizer.name", "optimizer.lr"),
    *("schedule.name", "train.steps", "train.epochs", "train.batch_size", "train.precision", "train.seed"),
)
"""Settings that a card shows although they have their defaults."""


def publish_card(session: Session, lora: Published, metrics: Published, verdict: Verdict) -> None:
    """Write the card unless the one that lies there is it."""
    project, index = session.project.model_dump(mode="json"), session.workspace.store.index
    key = digest([lora.key, metrics.key, verdict.promoted, list(verdict.reasons), project])
    target = session.workspace.outputs / CARD
    there = index.file_hashes({str(target): FileStat.of_path(target)}) if target.is_file() else {}
    known = index.facts(_KIND, [key]).get(key)
    if known is not None and known == there.get(str(target)):
        return
    session.workspace.outputs.mkdir(parents=True, exist_ok=True)
    write_atomic(session.workspace.store.root, target, model_card(_facts(session, lora, metrics, verdict)).encode())
    index.remember(_KIND, {key: sha256_file(target)})


def _facts(session: Session, lora: Published, metrics: Published, verdict: Verdict) -> CardFacts:
    project, report = session.project, TrainingReport.from_json(lora.metadata)
    names = {file: output.format(name=session.workspace.output_name) for file, output in published_names().items()}
    settings = report.lineage.settings
    trained = card.Trained(
        family=session.workspace.family.spec.title,
        rank=report.rank,
        alpha=report.alpha,
        targets=settings["adapter"]["targets"],
        steps=report.steps,
        step=report.selected_step,
        base_model=session.workspace.base.name,
        replaced=session.workspace.base.replaced,
        trigger_words=_trigger_words(project),
        kind=settings["adapter"]["type"],
        storage=report.lineage.base_storage,
    )
    lineage = card.Lineage(
        base_fingerprint=report.lineage.base_fingerprint,
        dataset_version=report.lineage.dataset_data_version,
        weights_sha256=lora.data_version,
        file_sha256=lora.files[LORA].sha256,
        versions=report.lineage.versions,
    )
    return card.CardFacts(
        name=project.name,
        file=names.get(report.rendered, "") if _is_read_by(report, "diffusers") else "",
        comfyui_file=next((names[proof["file"]] for proof in report.proof if proof["comfyui_coverage"] == 1.0), ""),
        kohya_file=_kohya_file(session, report, names),
        lycoris_file=_lycoris_file(report, names),
        denoiser=session.workspace.family.spec.denoiser,
        trained=trained,
        data=_training_data(session),
        lineage=lineage,
        rendered=_rendered(session),
        figures=tuple(_figures(ExamFigures.from_json(metrics.metadata))),
        verdict=verdict,
        settings=_shown_settings(settings),
    )


def _trigger_words(project: Project) -> tuple[str, ...]:
    """Return the trigger words of the datasets, each once."""
    words = (
        project.caption.trigger_word if dataset.trigger_word is None else dataset.trigger_word
        for dataset in project.datasets
    )
    return tuple(dict.fromkeys(word for word in words if word))


def _shown_settings(settings: Mapping[str, Mapping[str, JSON]]) -> dict[str, JSON]:
    """Return the settings that people ask for, and those that are not the default, in the order of the project."""
    values = {f"{group}.{name}": value for group, named in settings.items() for name, value in named.items()}
    return {
        path: values[path]
        for path, row in field_rows().items()
        if path in values
        and (values[path] != to_jsonable_python(row.default) or (path in _ALWAYS_SHOWN and values[path] is not None))
    }


def _figures(exam: ExamFigures) -> Iterator[Figure]:
    for name in (one for one in _FIGURES if one in exam.figures):
        both = exam.figures[name]
        losses = exam.by_sample.values() if name == "held_out_loss" else ()
        yield Figure(
            _FIGURES[name],
            both.base,
            both.lora,
            share=name in _SHARES,
            interval=exam.interval(name),
            pictures=exam.pictures(name),
            noise=noise_of_mean([one.lora - one.base for one in losses]),
        )
        if name == "held_out_loss" and exam.dense_base_loss is not None:
            yield Figure("held-out loss of the dense base", exam.dense_base_loss, None)


def _is_read_by(report: TrainingReport, reader: str) -> bool:
    return any(proof["reader"] == reader for proof in report.proof)


def _kohya_file(session: Session, report: TrainingReport, names: Mapping[str, str]) -> str:
    """Return the plain LoRA in kohya's keys, which A1111, Forge and kohya's scripts take."""
    if not adapter_kinds()[report.lineage.settings["adapter"]["type"]].plain_lora:
        return ""
    known, lora = formats(), session.workspace.family.spec.lora
    return next((names[proof["file"]] for proof in report.proof if known[proof["format"]].style(lora) == "kohya"), "")


def _lycoris_file(report: TrainingReport, names: Mapping[str, str]) -> str:
    """Return the file that LyCORIS's loader takes, for the kinds that it does not fail on."""
    files = [names[proof["file"]] for proof in report.proof if formats()[proof["format"]].for_lycoris]
    return files[0] if files and adapter_kinds()[report.lineage.settings["adapter"]["type"]].lycoris_loads else ""


def _training_data(session: Session) -> TrainingData:
    manifest = session.workspace.manifest
    buckets = Counter(sample.bucket for sample in manifest.samples)
    held_out = Counter(sample.bucket for sample in manifest.samples if sample.split == "held_out")
    return TrainingData(
        trained=len(manifest.samples) - held_out.total(),
        held_out=held_out.total(),
        excluded=Counter(gone.cause for gone in manifest.excluded),
        paired=sum(bool(sample.controls) for sample in manifest.samples),
        regularisation=sum(sample.regularisation and sample.split == "train" for sample in manifest.samples),
        buckets=tuple((str(bucket), buckets[bucket], held_out[bucket]) for bucket in sorted(buckets)),
    )


def _rendered(session: Session) -> Rendered:
    sample, side = session.project.sample, session.project.bucket.resolution
    nothing = session.workspace.family.spec.rendering.no_negative_prompt
    prompts = project_prompts(sample, session.workspace)
    return Rendered(
        prompts=prompts.texts,
        controls=max((len(files) for files in prompts.controls), default=0),
        # what the pipeline is given for pictures, so that the call in the card renders the same
        negative_prompt="" if nothing is None else sample.negative_prompt or nothing,
        steps=sample.steps,
        guidance=sample.guidance,
        width=sample.width or side,
        height=sample.height or side,
        guidance_argument=session.workspace.family.spec.rendering.guidance_argument,
        strengths=sample.strengths,
    )
