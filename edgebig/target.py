"""Target: what is known of a device, and the table of those that edgebig knows.

``targets.yaml`` beside this module is the table; each figure names its source there. A user's
own file has the same form as one row of it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgebig.errors import TargetError

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4", "fp4"]
Figure = Annotated[float, Field(gt=0, allow_inf_nan=False)]
EngineKind = Literal["host", "ahead", "on-device"]

_TABLE = Path(__file__).with_name("targets.yaml")


class Software(BaseModel):
    """A software stack of the device and the TensorRT that it brings.

    Attributes:
        name: for example ``JetPack 6.2``.
        tensorrt: its TensorRT version, for example ``10.3.0``.
        cuda: its CUDA version, where known.
        source: where this was read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tensorrt: str
    cuda: str | None = None
    source: str


class Target(BaseModel):
    """Facts about one device, or one class of devices.

    Attributes:
        name: what ``--target`` takes.
        description: one line for people.
        group: heading in ``edgebig targets``.
        engine: how the engine comes to be: ``host`` (ONNX Runtime on a CPU), ``ahead`` (TensorRT-RTX,
            on any machine) or ``on-device`` (``edgebig finish`` there).
        architecture: the processor that runs the application: ``x86_64``, ``aarch64``, ``any`` or ``native``.
        compute_capability: CUDA's, as ``8.9``; ``None`` for a CPU.
        memory_gb: memory that the accelerator can use, in 10^9 bytes.
        bandwidth_gb_s: memory bandwidth in 10^9 bytes a second.
        peak_tops: dense peak rate by number format, in 10^12 operations a second.
        precisions: formats that the device's hardware and its engine builder take.
        dla_cores: number of deep learning accelerator cores.
        software: stacks that run there.
        sources: for each figure's field name (``peak_tops.int8`` for one rate), where it was read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    description: str
    group: str = "own"
    engine: EngineKind
    architecture: Literal["x86_64", "aarch64", "any", "native"] = "any"
    compute_capability: str | None = Field(default=None, pattern=r"^\d+\.\d$")
    memory_gb: Figure | None = None
    bandwidth_gb_s: Figure | None = None
    peak_tops: dict[Precision, Figure] = Field(default_factory=dict)
    precisions: tuple[Precision, ...] = Field(min_length=1)
    dla_cores: int = Field(default=0, ge=0)
    software: tuple[Software, ...] = ()
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_whole(self) -> Target:
        if self.engine != "host" and self.compute_capability is None:
            raise ValueError(f"compute_capability is needed where engine is {self.engine}")
        if self.engine == "host" and self.compute_capability is not None:
            raise ValueError("compute_capability is a GPU's, and engine: host is a CPU")
        unknown = [p for p in self.peak_tops if p not in self.precisions]
        if unknown:
            raise ValueError(f"peak_tops names {', '.join(unknown)}, which precisions lacks")
        figures = [f for f in ("memory_gb", "bandwidth_gb_s") if getattr(self, f) is not None]
        figures += [f"peak_tops.{p}" for p in self.peak_tops]
        missing = [f for f in figures if not self.sources.get(f)]
        if missing:
            raise ValueError(f"sources lacks {', '.join(missing)}")
        return self

    @property
    def is_nvidia(self) -> bool:
        """Whether TensorRT or TensorRT-RTX runs the model there."""
        return self.compute_capability is not None

    @classmethod
    def load(cls, name: str | Path) -> Target:
        """The target of that name in the table, or the one in that YAML file.

        Raises:
            TargetError: no such target or file, or a field of it is wrong.
        """
        text = str(name)
        if text.endswith((".yaml", ".yml")) or "/" in text:
            return _from_file(Path(text))
        table = targets()
        if text not in table:
            raise TargetError(
                f"unknown target {text!r}: 'edgebig targets' lists the {len(table)} known ones; "
                "a file of your own ends in .yaml"
            )
        return table[text]


@cache
def targets() -> dict[str, Target]:
    """The table that ships with edgebig, by name, in its order."""
    rows = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return {row["name"]: Target(**row) for row in rows["targets"]}


def _from_file(path: Path) -> Target:
    try:
        row: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetError(f"cannot read the target file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TargetError(f"the target file {path} is not YAML: {error}") from error
    if not isinstance(row, dict):
        raise TargetError(f"the target file {path} must hold one mapping of fields, found {type(row).__name__}")
    try:
        return Target.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        where = f"{field}: " if field else ""
        why, found = first["msg"].removeprefix("Value error, "), first["input"]
        if isinstance(found, float) and first["type"] == "string_type":
            why = f"YAML reads {found} as a number: write it in quotes"
        said = "" if isinstance(found, dict) else f", found {found!r}"
        raise TargetError(f"the target file {path}: {where}{why}{said}"[:400]) from error
