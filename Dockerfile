# The runtime of edgebig for servers: NumPy, an engine and nothing that compiles. No torch.
#
#   what it serves                              BASE_IMAGE                                     EXTRAS                NEEDS
#   H100, H200, B200, A100, L4 ...: engines     nvcr.io/nvidia/tensorrt:26.03-py3              cuda,vision,text      gpu,tensorrt
#     of the full TensorRT, 'edgebig finish'      TensorRT 10.16.0, CUDA 13.2, Python 3.12       (the default)
#   A10, L4, L40S, RTX: engines built ahead     nvcr.io/nvidia/cuda:13.2.1-base-ubuntu24.04    rtx,cuda,vision,text  gpu,tensorrt-rtx
#     (much smaller)                              TensorRT-RTX 1.7.1 from PyPI, Python 3.12
#   bundles for a CPU                           ubuntu:24.04                                   cpu,vision,text       onnxruntime
#
# An engine of TensorRT runs on the version that built it: run 'edgebig finish' in the image that will serve the bundle, and
# again after its base has changed. Of the tensorrt images, 25.08-py3 has TensorRT 10.13, 26.06-py3 has 11.0, 26.07-py3 11.1.
#
#   docker build -t edgebig .
#   docker build --build-arg BASE_IMAGE=ubuntu:24.04 --build-arg EXTRAS=cpu,vision,text --build-arg NEEDS=onnxruntime -t edgebig .
#   docker run --rm --gpus all -v "$PWD/models:/models" edgebig finish /models/resnet50.bundle
#   docker run --rm --gpus all -v "$PWD/models:/models:ro" edgebig run /models/resnet50.bundle -i image=/models/cat.jpg
#
# It runs as user 10001: 'finish' writes into the bundle, so let that user write there, or give 'docker run' --user.

ARG BASE_IMAGE=nvcr.io/nvidia/tensorrt:26.03-py3

FROM ${BASE_IMAGE} AS wheel
# Each base has its own versions, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
# NVIDIA's images may constrain pip to their own versions; this environment is apart from theirs.
ENV PIP_CONSTRAINT= PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src
# 'edgebig serve' needs the compiled part; its compiler stays in this stage.
COPY LICENSE MANIFEST.in README.md pyproject.toml setup.cfg setup.py ./
COPY examples/c/edgebig_shm_layout.h examples/c/
COPY calibration calibration
COPY recipes recipes
COPY edgebig edgebig
RUN python3 -m venv /opt/build && /opt/build/bin/pip wheel --no-deps --wheel-dir /dist .

FROM ${BASE_IMAGE}
ARG EXTRAS=cuda,vision,text
ENV PIP_CONSTRAINT= PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
# The environment sees the image's own packages, since its TensorRT is one of them.
COPY --from=wheel /dist /tmp/dist
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --system-site-packages /opt/edgebig \
    && /opt/edgebig/bin/pip install "$(echo /tmp/dist/edgebig-*.whl)[${EXTRAS}]" \
    && rm -rf /tmp/dist \
    && /opt/edgebig/bin/edgebig --version \
    && /opt/edgebig/bin/python -c 'import edgebig.serve._shared' \
    && if /opt/edgebig/bin/python -c 'import torch' 2>/dev/null; then echo 'torch must not be here' >&2; exit 1; fi \
    && useradd --create-home --uid 10001 edgebig \
    && install --directory --owner=edgebig --group=edgebig /engines
ARG NEEDS=gpu,tensorrt
# A volume that is mounted at /engines belongs to the user too: engines of bundles that cannot be written, and timing caches.
ENV PATH=/opt/edgebig/bin:$PATH PYTHONUNBUFFERED=1 EDGEBIG_NEEDS=${NEEDS} EDGEBIG_ENGINES=/engines

USER 10001
WORKDIR /models

# Unhealthy where what bundles need here is missing: no GPU was handed in, or the engine's library does not load.
HEALTHCHECK --interval=60s --timeout=30s --start-period=10s --retries=3 \
    CMD ["sh", "-c", "exec edgebig doctor --need \"$EDGEBIG_NEEDS\""]
ENTRYPOINT ["edgebig"]
CMD ["doctor"]
