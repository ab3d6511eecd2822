"""Models of thirteen architectures with random weights, exported and compiled for this CPU and for an NVIDIA L4."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("optimum")
pytest.importorskip("tensorrt_rtx_bindings")

from source.tiny_models import MAKERS, save

import edgebig
from edgebig.runtime import golden

SEQ2SEQ = {"encoder_model", "decoder_model", "decoder_with_past_model"}
PARTS = {
    "t5": SEQ2SEQ,
    "marian": SEQ2SEQ,
    "whisper": SEQ2SEQ,
    "llama": {"model"},
    "qwen2": {"model"},
    "qwen3": {"model"},
}


@pytest.mark.parametrize("name", MAKERS)
def test_an_architecture_compiles_for_cpu_and_gpu(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path)
    for target, precision in (("cpu", "fp32"), ("l4", "fp16")):
        out = tmp_path / f"{target}.bundle"
        bundle = edgebig.compile(folder, target=target, precision=precision, out=out)
        bundle.verify()
        parts = bundle.manifest.parts
        assert set(parts) == PARTS.get(name, {"model"})
        said = [line for stage in bundle.manifest.stages for line in stage.declined]
        assert not [line for line in said if "the engine takes the shapes" in line]  # no fallback profile
        for part, found in parts.items():
            assert found.similarity and all(s["cosine"] > 0.999 for s in found.similarity.values()), (part, found)
            (engine,) = found.engines
            assert (out / engine.path).stat().st_size > 1000
            assert engine.kind == {"cpu": "onnxruntime", "l4": "tensorrt-rtx"}[target]
            dynamic = {s.name for s in found.inputs if not s.is_static}
            assert set(found.profiles) == dynamic
            if target == "cpu":
                with edgebig.load(out, part=part) as session:
                    for inputs, expected in golden(bundle, part):
                        answer = session.run(inputs)
                        for output, value in expected.items():
                            assert abs(answer[output] - value).max(initial=0) <= 1e-4 * abs(value).max(initial=1)
