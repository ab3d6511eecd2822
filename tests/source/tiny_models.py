"""Small Hugging Face models with random weights, one for each architecture that is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

_TEXT = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_DECODER = {**_TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8}
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}
_SEQ2SEQ |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48}


def _bert() -> Any:
    return hf.BertForSequenceClassification(hf.BertConfig(**_TEXT, max_position_embeddings=64))


def _vit() -> Any:
    return hf.ViTForImageClassification(hf.ViTConfig(**_VISION, image_size=32, patch_size=8))


def _resnet() -> Any:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return hf.ResNetForImageClassification(config)


def _segformer() -> Any:
    config = hf.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
    )
    return hf.SegformerForSemanticSegmentation(config)


def _yolos() -> Any:
    config = hf.YolosConfig(**_VISION, image_size=[64, 96], patch_size=16, num_detection_tokens=5)
    return hf.YolosForObjectDetection(config)


def _detr() -> Any:
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = hf.DetrConfig(
        **_SEQ2SEQ,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=6,
    )
    return hf.DetrForObjectDetection(config)


def _wav2vec2() -> Any:
    config = hf.Wav2Vec2Config(
        **_TEXT,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return hf.Wav2Vec2ForCTC(config)


def _whisper() -> Any:
    config = hf.WhisperConfig(
        **_SEQ2SEQ,
        vocab_size=120,
        max_target_positions=64,
        num_mel_bins=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return hf.WhisperForConditionalGeneration(config)


def _t5() -> Any:
    config = hf.T5Config(
        vocab_size=120,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return hf.T5ForConditionalGeneration(config)


def _marian() -> Any:
    config = hf.MarianConfig(
        **_SEQ2SEQ,
        vocab_size=120,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=1,
    )
    return hf.MarianMTModel(config)


def _llama() -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_DECODER))


def _qwen2() -> Any:
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**{k: v for k, v in _DECODER.items() if k != "head_dim"}))


def _qwen3() -> Any:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**_DECODER))


MAKERS: dict[str, Callable[[], Any]] = {
    "bert": _bert,
    "vit": _vit,
    "resnet": _resnet,
    "segformer": _segformer,
    "yolos": _yolos,
    "detr": _detr,
    "wav2vec2": _wav2vec2,
    "whisper": _whisper,
    "t5": _t5,
    "marian": _marian,
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}


def save(name: str, folder: Path) -> Path:
    """Writes the model of that name, always with the same weights, as ``save_pretrained`` does."""
    torch.manual_seed(0)
    path = folder / name
    MAKERS[name]().eval().save_pretrained(path)
    return path
