"""A tiny Qwen2.5-VL with its tokenizer and processor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.tiny.pipelines import _seeded
from tests.tiny.tokenizers import byte_alphabet

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def qwen_tokenizer() -> Any:
    """Byte-level BPE with the words of the pipelines' chats, so that their heads have as many tokens as in fact."""
    from transformers import AddedToken, Qwen2Tokenizer

    letters = byte_alphabet()
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    of_byte = dict(zip([*printable, *(byte for byte in range(256) if byte not in printable)], letters, strict=True))
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    for word in _chat_words():
        start = ""
        for letter in (of_byte[byte] for byte in word.encode()):
            if start and (start, letter) not in merges:
                merges.append((start, letter))
            start += letter
            vocabulary.setdefault(start, len(vocabulary))
    for token in _SPECIAL:
        vocabulary[token] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(token) for token in _SPECIAL[1:]]})
    return tokenizer


def _chat_words() -> list[str]:
    """Return the words of all chats as the real tokenizer splits them, those that begin with a space first."""
    import diffusers
    import regex
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    qwen = (diffusers.QwenImagePipeline, diffusers.QwenImageEditPipeline, diffusers.QwenImageEditPlusPipeline)
    chats = [_bare(pipeline).prompt_template_encode for pipeline in qwen]
    parts = [
        part
        for chat in [*chats, _bare(diffusers.Kandinsky5T2IPipeline).prompt_template]
        for part in re.split(r"<\|[a-z_]+\|>|\{\}", chat)
    ]
    words = {word for part in parts for word in regex.findall(PRETOKENIZE_REGEX, part) if len(word) > 1}
    return sorted(words, key=lambda word: (not word.startswith(" "), -len(word), word))


def _bare(pipeline: Any) -> Any:
    """Return a pipeline without components, which still knows its chat."""
    import inspect

    return pipeline(**dict.fromkeys(list(inspect.signature(pipeline.__init__).parameters)[1:]))


def qwen_vl(tokenizer: Any) -> Any:
    """Return a Qwen2.5-VL of two layers, of the width that the tiny transformers read (32)."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "use_sliding_window": False,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return _seeded(Qwen2_5_VLForConditionalGeneration, config=config)


def qwen_processor(tokenizer: Any) -> Any:
    """Return a processor with the real limits of pictures, and without videos, which need torchvision."""
    from transformers import Qwen2VLImageProcessorPil

    from trainer_core.families.shared.processors import qwen2_vl_class

    pictures = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12845056)
    return qwen2_vl_class()(image_processor=pictures, tokenizer=tokenizer)


def save_as_on_the_hub(pipeline: Any, directory: Path, processor: str) -> Path:
    """Save a pipeline with the stock class as that of its component `processor`, as machines with torchvision do."""
    pipeline.save_pretrained(directory)
    _rewrite(directory / "model_index.json", **{processor: ["transformers", "Qwen2VLProcessor"]})
    _rewrite(directory / processor / "processor_config.json", processor_class="Qwen2VLProcessor")
    return directory


def _rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=2))


def load_with_processor(folder: Path, processor: str) -> Any:
    """Load a pipeline as a user of diffusers does, who passes the processor where torchvision is missing."""
    from diffusers import DiffusionPipeline

    from trainer_core.families.shared import processors

    loaded = processors.load("Qwen2VLProcessor", str(folder / processor))
    return DiffusionPipeline.from_pretrained(folder, **{processor: loaded})
