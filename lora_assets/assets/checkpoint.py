"""The LoRA."""

import json
from collections.abc import Sequence
from statistics import fmean

import dagster as dg

from lora_assets.assets.latents import CACHED_LATENTS
from lora_assets.assets.pictures import picture, sparkline, table
from lora_assets.assets.stage import BASE_MODEL, Check, Finished, StageAsset, Verdict
from lora_assets.assets.text import CACHED_TEXT_EMBEDDINGS
from lora_assets.projects import ProjectAssets
from lora_assets.resources.hardware import describe as describe_hardware
from lora_assets.upstream import Metadata
from trainer_core.stages.publishing.lora_names import LORA, PROOF, published_names
from trainer_core.stages.publishing.outputs import check_outputs
from trainer_core.stages.results import TrainingReport
from trainer_core.stages.training.save_schedule import SAVES
from trainer_core.train.observe.metrics import StepMetrics, read_metrics


def _describe(finished: Finished) -> Metadata:
    session, published = finished.session, finished.result.published
    workspace = session.workspace
    report = TrainingReport.from_json(published.metadata)
    lines = read_metrics(published.path / "training.jsonl")
    losses = [line.loss for line in lines]
    metadata: dict[str, dg.MetadataValue] = {
        "loss": sparkline(losses, "loss over steps"),
        "loss_curve": picture(published.path / "loss_curve.png", "loss, held-out loss, chosen step"),
        "path": dg.MetadataValue.path(workspace.outputs / f"{workspace.output_name}.safetensors"),
        "sha256": dg.MetadataValue.text(published.files[LORA].sha256),
        "weights_sha256": dg.MetadataValue.text(published.data_version),
        "steps": dg.MetadataValue.text(str(report.steps)),
        "selected_step": dg.MetadataValue.text(str(report.selected_step)),
        "peak_memory_mib": dg.MetadataValue.float(report.peak_memory_mib),
        "hardware": describe_hardware(session),
    }
    if report.saved:
        rows = [(step["step"], _loss(step["held_out_loss"]), step["weights_sha256"][:12]) for step in report.saved]
        metadata["saved"] = table(("step", "held-out loss", "weights"), rows)
    if report.steps_per_second:
        metadata["steps_per_second"] = dg.MetadataValue.float(round(report.steps_per_second, 3))
    if losses:
        metadata["final_loss"] = dg.MetadataValue.float(round(float(losses[-1]), 5))
        metadata |= _curves(lines)
    return metadata


def _curves(lines: Sequence[StepMetrics]) -> Metadata:
    """Return the means of what services draw, under the same names; and what was unusual."""
    names = dict.fromkeys(name for line in lines for name in line.curves())
    drawn = {name: [value for line in lines if (value := line.curves().get(name)) is not None] for name in names}
    found: Metadata = {
        f"mean {name}": dg.MetadataValue.float(round(fmean(values), 5)) for name, values in drawn.items()
    }
    unusual = [(line.step, text) for line in lines for text in line.anomalies]
    return found | ({"anomalies": table(("step", "what"), unusual)} if unusual else {})


def _loss(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.5f}"


def _sha256_matches(finished: Finished) -> Verdict:
    """Hash what was published and what lies in the outputs folder, and compare both with what is on record."""
    published, workspace = finished.result.published, finished.session.workspace
    problems = [str(problem) for problem in published.verify()]
    if published.data_version != TrainingReport.from_json(published.metadata).weights_sha256:
        problems.append(f"{published.path}: the data version is not the weights' SHA-256")
    for row in check_outputs(workspace.outputs / f"{workspace.output_name}.safetensors"):
        if row["actual"] != row["expected"]:
            problems.append(f"{row['path']}: expected {row['expected']}, found {row['actual']}")
    sha256 = published.files[LORA].sha256
    text = "\n".join(problems) or f"store and outputs folder hold {sha256}"
    return Verdict(not problems, text, {"sha256": dg.MetadataValue.text(sha256)})


def _export_proven(finished: Finished) -> Verdict:
    """Hold the files that were published against the proof that was written when each was read back."""
    published = finished.result.published
    proofs = json.loads(published.file(PROOF).read_bytes())["files"]
    for name in sorted(published.files):
        folder, _, file = name.rpartition("/")
        if folder and file == PROOF:
            saved = json.loads(published.file(name).read_bytes())["files"]
            proofs += [proof | {"file": f"{folder}/{proof['file']}"} for proof in saved]
    proven = {proof["file"] for proof in proofs if proof["ok"]}
    saved_files = {name for name in published.files if name.startswith(f"{SAVES}/") and name.endswith(".safetensors")}
    unproven = sorted((published.files.keys() & published_names().keys() | saved_files) - proven)
    rows = [
        (
            *(proof["file"], proof["format"], proof["reader"], proof["modules"], proof["keys"]),
            *(f"{proof['max_relative_error']:.2g}", f"{proof['bound']:.2g}", f"{proof['comfyui_coverage']:.0%}"),
        )
        for proof in proofs
    ]
    head = ("file", "format", "read by", "modules", "keys", "largest error", "bound", "ComfyUI maps")
    text = f"no proof of {', '.join(unproven)}" if unproven else f"{len(proven)} files hold what was trained"
    return Verdict(bool(proven) and not unproven, text, {"files": table(head, rows)})


LORA_CHECKPOINT = StageAsset(
    name="lora_checkpoint",
    kinds=frozenset({"pytorch", "safetensors"}),
    # The denoiser's weights decide the result as well, whatever the caches say.
    sources=(BASE_MODEL,),
    parents=(CACHED_LATENTS, CACHED_TEXT_EMBEDDINGS),
    describe=_describe,
    check=Check(
        "sha256_matches", "The published file and its copy are, byte for byte, what was exported.", _sha256_matches
    ),
    more_checks=(
        Check(
            "export_proven",
            "Every LoRA file was read back, with diffusers where it can, and each update in it is the trained one.",
            _export_proven,
        ),
    ),
)


def build(project: ProjectAssets) -> dg.AssetsDefinition:
    """Return the asset of one project."""
    return LORA_CHECKPOINT.build(project)
