# samclip's HTTP server on an x86-64 or Arm CPU: ONNX Runtime, and OpenVINO where it has a build.
#
#   docker build --file docker/cpu.Dockerfile --tag samclip:cpu .
#   openssl rand -hex 32 > token && chmod 644 token
#   docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges \
#       --publish 127.0.0.1:8000:8000 --volume samclip-cache:/cache \
#       --volume "$PWD/token:/run/secrets/samclip-token:ro" samclip:cpu
#
# Everything runs as the user 10001, who may write to /cache alone.
ARG BASE=python:3.12.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/samclip
ENV PATH=/opt/samclip/bin:${PATH}
# Only the files of the package: no tests, no history.
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE MANIFEST.in constraints.txt ./
COPY samclip samclip
ARG EXTRAS=serve,openvino,signing
RUN python -m pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM ${BASE}
RUN useradd --no-create-home --home-dir /cache --uid 10001 samclip \
    && install --directory --owner samclip --mode 700 /cache
COPY --from=build /opt/samclip /opt/samclip
ENV PATH=/opt/samclip/bin:${PATH} HOME=/cache SAMCLIP_CACHE_DIR=/cache TMPDIR=/cache PYTHONDONTWRITEBYTECODE=1
VOLUME /cache
WORKDIR /cache
USER 10001:10001
EXPOSE 8000

# Whether the server takes requests: the model is loaded, and it does not end.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# What is under way is answered first: `docker stop --timeout 40`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["samclip"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--token-file", "/run/secrets/samclip-token"]
