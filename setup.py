"""The parts that are compiled. Without a C compiler NumPy counts, more slowly, and there is no `edgebig serve`."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "edgebig.calibrate._counting",
            ["edgebig/calibrate/_counting.c"],
            # the loops are written for a compiler that vectorizes; none may fuse or reorder what they round
            extra_compile_args=["-std=c99", "-O3", "-ffp-contract=off"],
            optional=True,
        ),
        Extension(
            "edgebig.serve._shared",
            ["edgebig/serve/_shared.c", "edgebig/serve/_requests.c"],
            depends=["edgebig/serve/_shared.h", "examples/c/edgebig_shm_layout.h"],
            extra_compile_args=["-std=c99", "-D_GNU_SOURCE", "-fvisibility=hidden"],
            optional=True,
        ),
    ]
)
