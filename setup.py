"""The one part that is compiled. It is optional: without a C compiler, NumPy counts, more slowly."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "edgebig.calibrate._counting",
            ["edgebig/calibrate/_counting.c"],
            # the loops are written for a compiler that vectorizes; none may fuse or reorder what they round
            extra_compile_args=["-std=c99", "-O3", "-ffp-contract=off"],
            optional=True,
        )
    ]
)
