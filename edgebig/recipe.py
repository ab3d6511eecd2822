"""Recipe: everything that is asked of one compile, as validated data.

A recipe is a YAML file; the command line's options override its fields. ``recipes/`` in the
repository holds those that ship with edgebig.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgebig.errors import RecipeError, UsageError
from edgebig.preprocess import Audio, Preprocess
from edgebig.resources import data_folder
from edgebig.units import parse_bytes

RequestedPrecision = Literal["fp32", "fp16", "bf16", "int8", "fp8", "int4", "int8-weights", "nvfp4", "mxfp8", "auto"]
CalibrationMethod = Literal["min-max", "average-min-max", "percentile", "entropy", "mse"]
Repair = Literal["equalize", "outliers", "smooth", "mse", "gptq", "adaround", "awq", "bias"]
Shape = tuple[int, ...]

_LARGEST = (1 << 31) - 1
"""Of an axis: TensorRT counts no further."""

_CAPABILITY = re.compile(r"\d+\.\d")
_SPEC = re.compile(r"(?:'(?P<quoted>[^']+)'|(?P<plain>[^']*[^'\s])) *: *(?P<dims>\d+(?:x\d+)*|scalar|)")


class ShapeRange(BaseModel):
    """The shapes that one input takes: an optimization profile's minimum, optimum and maximum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Shape
    opt: Shape
    max: Shape

    @model_validator(mode="after")
    def _is_ordered(self) -> ShapeRange:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError("min, opt and max need the same number of axes")
        if any(not 0 <= a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=True)):
            raise ValueError(f"needs 0 <= min <= opt <= max on every axis, found {self.min}, {self.opt}, {self.max}")
        if any(size > _LARGEST for size in self.max):
            raise ValueError(f"an axis has {_LARGEST} elements at most, found {max(self.max)}")
        return self

    def check_empty(self, name: str) -> None:
        """Raises ``ValueError`` where a size of 0 is asked of an input that is no cache (``past_key_values.0.key``)."""
        if 0 in self.min and "past" not in name:
            raise ValueError(f"needs 1 <= min on every axis of {name}: only the length of a cache (past) can be 0")

    @property
    def is_static(self) -> bool:
        """Whether only one shape is allowed."""
        return self.min == self.max


class CalibrationRecipe(BaseModel):
    """Where the calibration samples come from.

    Attributes:
        data: a file or folder; the name of a ready set is written ``ready:NAME``.
        samples: at most so many are read.
        methods: how ranges are made of the values; the first is used, the others are reported beside it.
        memory_mb: activations that one run hands out at most, in 2^20 bytes.
        skip_bad: so many samples that do not fit or cannot be read are left out; the next one ends the compile.
        device: where the samples run; on CUDA where that works by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str | None = None
    samples: int = Field(default=128, ge=1)
    methods: tuple[CalibrationMethod, ...] = Field(default=("min-max",), min_length=1)
    memory_mb: int = Field(default=128, ge=1)
    skip_bad: int = Field(default=0, ge=0)
    device: Literal["cpu", "cuda"] | None = None


class BuildRecipe(BaseModel):
    """What is asked of the engine builder besides the precision; ``docs/engines.md`` says what each option needs.

    A bundle whose engine is built on the device keeps it for ``edgebig finish``.

    Attributes:
        workspace: memory that one layer may use for scratch, in bytes or as ``2G``.
        optimization_level: 0 (fastest build) to 5 (fastest engine).
        aux_streams: streams beside the main one that an engine may use at most.
        version_compatible: whether later versions of TensorRT are to load the engine.
        hardware_compatible: the other GPUs that are to load it: ``ampere+`` or ``same-capability``.
        dla_core: the deep learning accelerator that runs what it can.
        gpu_fallback: whether the GPU runs what the DLA cannot.
        strip_weights: the engine holds no weights: they come from the bundle's graph when it is loaded.
        refit: weights can be replaced in the built engine.
        weight_streaming: weights may stay in the processor's memory: ``auto``, or how many bytes of them the GPU keeps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: int | None = Field(default=None, ge=1)
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    aux_streams: int | None = Field(default=None, ge=0)
    version_compatible: bool = False
    hardware_compatible: Literal["none", "ampere+", "same-capability"] = "none"
    dla_core: int | None = Field(default=None, ge=0)
    gpu_fallback: bool = True
    strip_weights: bool = False
    refit: bool = False
    weight_streaming: int | Literal["auto"] | None = None

    @field_validator("workspace", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        """Sizes are written ``2G`` too."""
        return _bytes(value)

    @field_validator("weight_streaming", mode="before")
    @classmethod
    def _size_or_auto(cls, value: Any) -> Any:
        size = None
        if value is None or value == "auto":
            return value
        with suppress(ValueError):
            size = _bytes(value)
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError("it is auto, or a size as 2G, 512M or a number of bytes")
        return size

    @field_validator("workspace", "optimization_level", "aux_streams", "dla_core", mode="before")
    @classmethod
    def _no_switches(cls, value: Any) -> Any:
        """Which pydantic takes for 1 and 0."""
        if isinstance(value, bool):
            raise ValueError("takes a number")
        return value


class EvaluationRecipe(BaseModel):
    """Labelled data that says how good the model is.

    Attributes:
        data: a file or folder, as ``docs/evaluation.md`` says.
        metric: a metric's name or ``file.py:function``; what suits the task by default.
        samples: at most so many are used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str | None = None
    metric: str | None = None
    samples: int | None = Field(default=None, ge=1)


class Recipe(BaseModel):
    """What is asked of one compile.

    Attributes:
        name: the recipe's name.
        description: one line for people.
        task: Optimum's task name (``image-classification``); found from the model's config if absent.
        target: the default target.
        precision: the number format of weights and activations.
        opset: the ONNX opset to raise the graph to, at least; never lowered.
        shapes: for each input, the shapes that it takes; inputs that are absent keep their own.
        more_shapes: further sets of the same, each an optimization profile of its own.
        freeze: inputs that become constants, with their values.
        preprocess: how pictures become tensors, where the model brings no image processor.
        audio: how recordings become samples, where the model takes sound as it is.
        calibration: where the samples come from.
        keep_float: patterns (``fnmatch``) of node names that are not quantized.
        tolerance: largest difference between the exported graph and the original, relative to the
            original output's largest magnitude.
        keep_original: the bundle also carries the original graph, for comparison on the device.
        golden: number of inputs that the result is compared with the original on.
        golden_inputs: where they come from: ``held-out`` of the calibration data, or ``synthetic``; the bundle
            carries them with the original's outputs, unless they are ``private``.
        state: for each recurrent state input, the output that becomes it in the next run; found by the usual
            names if absent.
        repair: what is done to keep accuracy when the model is quantized; ``None``: what suits the format and the
            target. ``equalize``: cross-layer equalization; ``outliers``: outlier channels are multiplied in float;
            ``smooth``: SmoothQuant; ``mse``: scales of weights that clip for the least squared error; ``gptq``,
            ``adaround``: how weights are rounded; ``awq``: activation-aware scales of weights; ``bias``: bias
            correction.
        max_drop: the largest loss allowed: of cosine (1 - cosine of the worst output on the worst input) or,
            with ``evaluation``, in the metric's unit. Beyond it a compile fails; ``auto`` searches within it.
        min_speedup: how many times as fast as float32 the model must be at least, on this processor; ``auto`` then
            loses as little as it can.
        search_minutes: after which the search of ``auto`` takes the best plan so far.
        evaluation: labelled data to measure the loss with.
        capabilities: compute capabilities that one engine is to serve, the target's own among them; that one alone
            by default.
        build: what is asked of the engine builder.
        plan: a file with the format of each layer, as a bundle's ``evidence/PART.plan.json``; edited by hand or not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "own"
    description: str = ""
    task: str | None = None
    target: str | None = None
    precision: RequestedPrecision = "fp32"
    opset: int = Field(default=17, ge=13, le=25)
    shapes: dict[str, ShapeRange] = Field(default_factory=dict)
    more_shapes: tuple[dict[str, ShapeRange], ...] = ()
    freeze: dict[str, int | float | bool] = Field(default_factory=dict)
    preprocess: Preprocess | None = None
    audio: Audio | None = None
    calibration: CalibrationRecipe = CalibrationRecipe()
    keep_float: tuple[str, ...] = ()
    tolerance: float = Field(default=1e-3, gt=0)
    keep_original: bool = False
    golden: int = Field(default=4, ge=1, le=64)
    golden_inputs: Literal["held-out", "synthetic", "private"] = "held-out"
    state: dict[str, str] = Field(default_factory=dict)
    repair: tuple[Repair, ...] | None = None
    max_drop: float | None = Field(default=None, ge=0)
    min_speedup: float | None = Field(default=None, gt=1)
    search_minutes: float | None = Field(default=None, gt=0)
    evaluation: EvaluationRecipe = EvaluationRecipe()
    capabilities: tuple[str, ...] = ()
    build: BuildRecipe = BuildRecipe()
    plan: str | None = None

    @field_validator("capabilities", mode="before")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not all(
            isinstance(c, str) and _CAPABILITY.fullmatch(c) for c in value
        ):
            raise ValueError('compute capabilities are written 8.6,8.9, in a recipe ["8.6", "8.9"] with the quotes')
        return tuple(dict.fromkeys(value))

    @field_validator("shapes", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """``name: 1x3x224x224`` stands for a static shape, and each of min, opt, max may be written so."""
        if not isinstance(value, dict):
            return value
        return {k: _shape_range(v) for k, v in value.items()}

    @field_validator("more_shapes", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{k: _shape_range(v) for k, v in one.items()} if isinstance(one, dict) else one for one in value]

    @model_validator(mode="after")
    def _only_caches_are_empty(self) -> Recipe:
        for name, shape in ((n, s) for one in self.shape_sets for n, s in one.items()):
            shape.check_empty(name)
        return self

    @property
    def shape_sets(self) -> tuple[dict[str, ShapeRange], ...]:
        """The shapes of each set, the first one first; that may be empty."""
        return self.shapes, *self.more_shapes

    @classmethod
    def load(cls, name: str | Path) -> Recipe:
        """The shipped recipe of that name, or the one in that YAML file.

        Raises:
            RecipeError: no such recipe or file, or a field of it is wrong.
        """
        text = str(name)
        path = Path(text) if text.endswith((".yaml", ".yml")) or "/" in text else _shipped().get(text)
        if path is None:
            raise RecipeError(
                f"unknown recipe {text!r}: the shipped ones are {', '.join(sorted(_shipped()))}; "
                "a file of your own ends in .yaml"
            )
        try:
            fields: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"the recipe {path} is not YAML: {error}") from error
        if not isinstance(fields, dict):
            raise RecipeError(f"the recipe {path} must hold one mapping of fields, found {type(fields).__name__}")
        return cls.of(f"the recipe {path}", {"name": path.stem, **fields})

    @classmethod
    def of(cls, where: str, fields: dict[str, Any]) -> Recipe:
        """A recipe from plain fields; a wrong one raises ``RecipeError`` that begins with ``where``."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(p) for p in first["loc"]) or "fields"
            why = first["msg"].removeprefix("Value error, ")
            raise RecipeError(f"{where}: {field}: {why}, found {first['input']!r}"[:400]) from error

    def with_calibration(self, fields: dict[str, Any]) -> Recipe:
        """This recipe with some fields of ``calibration`` replaced; those that are ``None`` stay."""
        given = {name: value for name, value in fields.items() if value is not None}
        return self.changed(calibration={**self.calibration.model_dump(), **given}) if given else self

    def with_build(self, fields: BuildRecipe | Mapping[str, Any]) -> Recipe:
        """This recipe with some fields of ``build`` replaced: those of a mapping, or those that a value was given."""
        if isinstance(fields, BuildRecipe):
            fields = fields.model_dump(exclude_unset=True)
        elif not isinstance(fields, Mapping):
            return self.changed(build=fields)  # which says what it takes
        return self.changed(build={**self.build.model_dump(), **fields}) if fields else self

    def changed(self, **fields: Any) -> Recipe:
        """This recipe with some fields replaced, validated anew."""
        return Recipe.of("the request", {**self.model_dump(), **fields})


def recipes() -> dict[str, Recipe]:
    """The recipes that ship with edgebig, by name."""
    return {name: Recipe.load(path) for name, path in sorted(_shipped().items())}


def parse_shapes(spec: str) -> dict[str, Shape]:
    """``name:1x3x224x224,other:1x16`` as a shape for each name, as ``trtexec --help`` of TensorRT 10.14 has it.

    The last colon ends a name, so that it may hold others; single quotes around it are passed over. A scalar
    is written ``name:scalar`` or ``name:``. The wildcard ``*`` is not taken.

    Raises:
        UsageError: the text has another form, or names an input twice.
    """
    shapes: dict[str, Shape] = {}
    for item in spec.split(","):
        match = _SPEC.fullmatch(item.strip())
        if match is None:
            raise UsageError(f"shapes are written name:1x3x224x224,other:1x16; found {item.strip()!r}")
        name, dims = match["quoted"] or match["plain"], match["dims"]
        if name in shapes:
            raise UsageError(f"shapes: {name!r} is given twice in {spec!r}")
        shapes[name] = tuple(int(d) for d in dims.split("x")) if dims not in {"", "scalar"} else ()
    return shapes


def _bytes(value: Any) -> Any:
    """A size that is written ``2G`` in bytes; anything but text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except UsageError as error:
        raise ValueError(str(error).partition(", found")[0]) from error


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in data_folder("recipes").glob("*.yaml")}


def _shape_range(value: Any) -> Any:
    def dims(v: Any) -> Any:
        return tuple(int(d) for d in v.split("x")) if isinstance(v, str) and re.fullmatch(r"\d+(x\d+)*", v) else v

    if isinstance(value, dict):
        return {k: dims(v) for k, v in value.items()}
    if isinstance(value, str | list | tuple):
        shape = dims(value)
        return {"min": shape, "opt": shape, "max": shape}
    return value
