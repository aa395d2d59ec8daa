"""Build the manifest: join what discovery listed with what was read of the files, and split off held-out pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from trainer_core.data.captions.sample_captions import CaptionChoices
from trainer_core.data.discovery.discovery_types import Discovery, Exclusion
from trainer_core.data.draft import Draft, FileFacts, ManifestRules, make_draft
from trainer_core.data.epoch.holdout import HoldoutShare, group_of_picture, held_out_pictures, merge_groups
from trainer_core.data.epoch.regularisation import balance_regularisation
from trainer_core.data.manifest import Manifest
from trainer_core.data.names import join_names, pluralize
from trainer_core.data.pictures.augmentation import ViewBuilder, mask_weight_findings
from trainer_core.data.pictures.multi_resolution import ResolutionGrid, bucket_grids
from trainer_core.data.reports.caption_findings import caption_findings
from trainer_core.data.reports.dataset_findings import dataset_findings
from trainer_core.data.sample_identity import dataset_settings
from trainer_core.errors import DatasetError
from trainer_core.types import Bucket, Finding, Sample


def build_manifest(discoveries: Sequence[Discovery], facts: FileFacts, rules: ManifestRules) -> Manifest:
    """Turn the pictures of all datasets into samples and exclusions.

    A picture without a hash could not be read, and is excluded; so is one whose caption file is not in
    `facts.captions`. Every hash must have its info.

    Raises:
        DatasetError: two datasets have one name, or not one picture can be used.
        ConfigError: the bucket settings leave no bucket.
    """
    _check_names(discoveries)
    drafts, excluded = _make_drafts(discoveries, facts, rules)
    total = len(drafts) + len(excluded)
    held = _held_out(discoveries, drafts)
    views, datasets = ViewBuilder(rules.augment, facts.masks, facts.faces), {each.name: each for each in discoveries}
    samples, unneeded, balance = balance_regularisation(
        sorted((_sample(draft, held, rules, views, datasets) for draft in drafts), key=lambda sample: sample.id)
    )
    excluded += unneeded
    findings = [finding for discovery in discoveries for finding in discovery.findings]
    findings.extend(dataset_findings(drafts, excluded, held, rules.caption))
    findings.extend(caption_findings(drafts, rules.caption, rules.captions.rules))
    findings.extend(_split_findings(discoveries, samples))
    findings += [*balance, *views.findings(samples), *mask_weight_findings(samples, facts.masks)]
    if not samples:
        raise DatasetError(_no_sample(discoveries, excluded, findings))
    excluded.sort(key=lambda exclusion: exclusion.path)
    return Manifest(tuple(samples), tuple(excluded), tuple(findings), total)


def _make_drafts(
    discoveries: Sequence[Discovery], facts: FileFacts, rules: ManifestRules
) -> tuple[list[Draft], list[Exclusion]]:
    """Return the drafts of all pictures, one for each resolution, and all exclusions."""
    grids = bucket_grids({each.name: each.dataset.resolutions for each in discoveries}, rules.bucket, rules.multiple)
    drafts: list[Draft] = []
    excluded = [exclusion for discovery in discoveries for exclusion in discovery.excluded]
    for discovery in discoveries:
        dataset = discovery.dataset
        own = "" if dataset.regularisation and dataset.trigger_word is None else dataset.trigger_word
        trigger_word = rules.caption.trigger_word if own is None else own
        for picture in discovery.pictures:
            results = [(at, make_draft(picture, facts, rules, at.grid, trigger_word)) for at in grids[discovery.name]]
            made, refused = name_by_resolution(picture.id, results)
            drafts += made
            excluded += refused
    return drafts, excluded


def name_by_resolution(
    picture: str, results: Sequence[tuple[ResolutionGrid, Draft | str]]
) -> tuple[list[Draft], list[Exclusion]]:
    """Name the drafts of a picture after their resolutions; a reason that is the same at all is given once.

    Args:
        picture: id of the picture.
        results: of each resolution, the draft or the reason why the picture cannot be used.
    """
    if len(results) == 1:
        result = results[0][1]
        return ([], [Exclusion(picture, result)]) if isinstance(result, str) else ([result], [])
    reasons = [result for _, result in results if isinstance(result, str)]
    if len(reasons) == len(results) and len(set(reasons)) == 1:
        return [], [Exclusion(picture, reasons[0])]
    drafts = [result._replace(id=picture + at.suffix) for at, result in results if isinstance(result, Draft)]
    excluded = [Exclusion(picture + at.suffix, result) for at, result in results if isinstance(result, str)]
    return drafts, excluded


def _check_names(discoveries: Sequence[Discovery]) -> None:
    counts = Counter(discovery.name for discovery in discoveries)
    for name, count in counts.items():
        if count > 1:
            roots = join_names(str(discovery.root) for discovery in discoveries if discovery.name == name)
            raise DatasetError(f"{count} datasets are named {name}: {roots}. Give each a `name` of its own.")


def _held_out(discoveries: Sequence[Discovery], drafts: Sequence[Draft]) -> frozenset[str]:
    """Return the contents that are held out; pictures of one group go together."""
    contents: dict[str, str] = {draft.picture.id: draft.content for draft in drafts}
    grouped = merge_groups(
        (f"{discovery.name}/{group}", contents[picture.id])
        for discovery in discoveries
        if (rule := discovery.dataset.held_out_group)
        for picture in discovery.pictures
        if picture.id in contents and (group := group_of_picture(rule, picture.id)) is not None
    )
    parts = {
        discovery.name: HoldoutShare(
            discovery.held_out,
            [
                grouped.get(contents[picture.id], contents[picture.id])
                for picture in discovery.pictures
                if picture.id in contents
            ],
        )
        for discovery in discoveries
    }
    held = held_out_pictures(parts)
    return held if not grouped else frozenset(one for one in contents.values() if grouped.get(one, one) in held)


def _sample(
    draft: Draft, held: frozenset[str], rules: ManifestRules, builder: ViewBuilder, discoveries: Mapping[str, Discovery]
) -> Sample:
    """Make the sample. Held-out ones keep the plain crop and no mask, so that their losses compare between runs."""
    picture, geometry = draft.picture, draft.geometry
    dataset = discoveries[picture.id.partition("/")[0]].dataset
    trained = draft.content not in held
    name, views, mask = draft.sample_id, (), draft.mask if trained else None
    if trained:
        geometry, views = builder.views(name, draft.content, geometry, mask)
    captions = rules.captions.choices(draft.source, rules.caption.variants) if trained else CaptionChoices()
    return Sample(
        name,
        picture.path,
        draft.content,
        draft.caption,
        Bucket(geometry.target[1], geometry.target[0]),
        geometry,
        picture.repeats,
        "train" if trained else "held_out",
        draft.controls,
        texts=captions.texts,
        epoch_groups=captions.epoch_groups,
        source=captions.source,
        class_caption=draft.class_caption if trained else "",
        views=views,
        mask=mask,
        **dataset_settings(dataset),
    )


def _split_findings(discoveries: Sequence[Discovery], samples: Sequence[Sample]) -> Iterator[Finding]:
    held = Counter(sample.split == "held_out" for sample in samples)
    if samples and not held[False]:
        yield Finding(
            "error", "datasets", "Every picture is held out of training.", "Lower `held_out`, or add pictures."
        )
    elif held[True]:
        message = f"{held[True]} of {len(samples)} pictures are held out of training, to measure the loss on them."
        yield Finding("info", "datasets", message, "Set `held_out: 0` to train on all.")
    elif any(discovery.held_out > 0 for discovery in discoveries):
        message = "No picture could be held out: there are too few different ones; no held-out loss will be measured."
        yield Finding("warning", "datasets", message, "Add pictures, or raise `held_out`.")


def _no_sample(discoveries: Sequence[Discovery], excluded: Sequence[Exclusion], findings: Sequence[Finding]) -> str:
    roots = join_names(str(discovery.root) for discovery in discoveries)
    causes = Counter(exclusion.cause for exclusion in excluded)
    counts = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
    found = f"{pluralize(len(excluded), 'picture')} found, none usable: {counts}"
    summary = found if excluded else "no file ends like a picture"
    lines = [f"{roots}: there is not one picture to train on ({summary})."]
    if excluded:
        lines.append(f"First: {excluded[0].path}: {excluded[0].reason}.")
    lines.extend(str(finding) for finding in findings if finding.level != "info")
    return "\n".join([*lines, "Add pictures (png, jpg, webp, bmp, gif, tif, avif) with captions, or correct the path."])
