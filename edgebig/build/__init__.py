"""Building: from a graph that carries its precision to what a device loads."""

from edgebig.build.engine_cache import EngineCache
from edgebig.build.flavour import Flavour, find_flavour, find_flavours
from edgebig.build.onnxruntime import optimize_for_cpu
from edgebig.build.options import BuildOptions
from edgebig.build.profiles import Knowledge, Profile, ProfileSet, derive_profiles
from edgebig.build.tensorrt import Built, build_engine, check_parse, rtx_version
from edgebig.build.timing_cache import TimingCache

__all__ = [
    "BuildOptions",
    "Built",
    "EngineCache",
    "Flavour",
    "Knowledge",
    "Profile",
    "ProfileSet",
    "TimingCache",
    "build_engine",
    "check_parse",
    "derive_profiles",
    "find_flavour",
    "find_flavours",
    "optimize_for_cpu",
    "rtx_version",
]
