"""The peer for MiniLM: ONNX Runtime's quantize_static on Optimum's export, as its users run it.

    python peer_minilm.py FP32.onnx TOKENIZER.json SENTENCES.txt OUT.onnx --samples N [--defaults]

Tuned: QDQ, unsigned activations and signed weights (what ONNX Runtime recommends for x86 with VNNI), weights
per channel, min-max, after quant_pre_process (without its symbolic shape inference, which gives up on this
graph). Only MatMul and Gather, since softmax, LayerNorm and masks in INT8 ruin a transformer; and the outputs
of MatMul stay float: without that option the sentence vectors are six times as far from the original.
Defaults: every parameter left alone, on the model as it was exported.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from tokenizers import Tokenizer


class Sentences(CalibrationDataReader):  # type: ignore[misc]
    """The first lines of a text file, one sentence a run."""

    def __init__(self, model: str, tokenizer: str, file: str, samples: int) -> None:
        wanted = {i.name for i in ort.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()}
        encoder = Tokenizer.from_file(tokenizer)
        encoder.no_padding()
        lines = (line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
        encoded = [encoder.encode(line) for line in islice(lines, samples)]
        feeds = [
            {"input_ids": e.ids, "attention_mask": e.attention_mask, "token_type_ids": e.type_ids} for e in encoded
        ]
        self._samples = iter({k: np.array([v], np.int64) for k, v in feed.items() if k in wanted} for feed in feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._samples, None)


def main() -> None:
    """Quantizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "tokenizer", "sentences", "out"):
        parser.add_argument(name)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--defaults", action="store_true")
    asked = parser.parse_args()
    reader = Sentences(asked.model, asked.tokenizer, asked.sentences, asked.samples)
    if asked.defaults:
        quantize_static(asked.model, asked.out, reader)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(asked.model, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            asked.out,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gather"],
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


if __name__ == "__main__":
    main()
