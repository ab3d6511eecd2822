"""Building: from a graph that carries its precision to what a device loads."""

from edgebig.build.onnxruntime import optimize_for_cpu
from edgebig.build.profiles import Profile, derive_profiles
from edgebig.build.tensorrt import build_engine, check_parse, rtx_version

__all__ = ["Profile", "build_engine", "check_parse", "derive_profiles", "optimize_for_cpu", "rtx_version"]
