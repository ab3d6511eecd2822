"""The steps of the pipeline: each hands a request to one stage and keeps what it gave."""

from edgebig.steps.build import build_part
from edgebig.steps.calibrate import calibrate_part
from edgebig.steps.dla import fix_sizes
from edgebig.steps.engine_options import check_build
from edgebig.steps.finish import make_manifest, verify_part, write_processor
from edgebig.steps.plans import with_plan
from edgebig.steps.prepare import prepare_graph
from edgebig.steps.quantize import quantize_part
from edgebig.steps.source import check_model_exists, load_source

__all__ = [
    "build_part",
    "calibrate_part",
    "check_build",
    "check_model_exists",
    "fix_sizes",
    "load_source",
    "make_manifest",
    "prepare_graph",
    "quantize_part",
    "verify_part",
    "with_plan",
    "write_processor",
]
