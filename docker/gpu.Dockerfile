# samclip's HTTP server on an NVIDIA GPU of an x86-64 machine: ONNX Runtime's CUDA, and TensorRT.
#
#   docker build --file docker/gpu.Dockerfile --tag samclip:gpu .
#   openssl rand -hex 32 > token && chmod 644 token
#   docker run --rm --gpus 1 --read-only --cap-drop ALL \
#       --security-opt no-new-privileges --publish 127.0.0.1:8000:8000 --volume samclip-cache:/cache \
#       --volume "$PWD/token:/run/secrets/samclip-token:ro" samclip:gpu
#
# The host needs NVIDIA's driver for CUDA 13 (580 or newer) and the NVIDIA Container Toolkit. CUDA,
# cuDNN and TensorRT come from pip. Plans of TensorRT are built for one GPU, into the volume:
#
#   docker run --rm --gpus 1 --volume samclip-cache:/cache samclip:gpu engine build samclip-tiny
ARG BASE=python:3.12.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/samclip
ENV PATH=/opt/samclip/bin:${PATH}
# First what is large and changes seldom. ONNX Runtime 1.31 is built for CUDA 13.
COPY constraints.txt /src/
ARG ONNXRUNTIME=onnxruntime-gpu[cuda,cudnn]==1.31.1
ARG TENSORRT="tensorrt-cu13==10.16.1.11 cuda-python==13.4.4"
RUN python -m pip install --constraint /src/constraints.txt "${ONNXRUNTIME}" ${TENSORRT}
# Only the files of the package: no tests, no history.
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE MANIFEST.in ./
COPY samclip samclip
# The core's onnxruntime holds the same files as onnxruntime-gpu, which is put back over it.
RUN python -m pip install --constraint constraints.txt '.[serve,signing]' \
    && python -m pip uninstall --yes onnxruntime \
    && python -m pip install --constraint constraints.txt --force-reinstall --no-deps \
        "${ONNXRUNTIME}"

FROM ${BASE}
RUN useradd --no-create-home --home-dir /cache --uid 10001 samclip \
    && install --directory --owner samclip --mode 700 /cache
COPY --from=build /opt/samclip /opt/samclip
ENV PATH=/opt/samclip/bin:${PATH} HOME=/cache SAMCLIP_CACHE_DIR=/cache TMPDIR=/cache PYTHONDONTWRITEBYTECODE=1 \
    CUDA_MODULE_LOADING=LAZY \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /cache
WORKDIR /cache
USER 10001:10001
EXPOSE 8000

# Whether the server takes requests: the model is loaded, and it does not end.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# What is under way is answered first: `docker stop --timeout 40`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["samclip"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--token-file", "/run/secrets/samclip-token", "--device", "cuda"]
