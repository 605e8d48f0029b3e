# samclip's runtime for an Orin with JetPack 6.1 or 6.2 (L4T 36.4). TensorRT 10.3, CUDA 12.6 and
# Python 3.10 come from the base image; pip installs what JetPack does not have.
#
#   docker build --file docker/jetson.Dockerfile --tag samclip:jetson .
#   docker run --rm --runtime nvidia --volume samclip-cache:/cache \
#       --volume /etc/nv_tegra_release:/etc/nv_tegra_release:ro samclip:jetson doctor
#
# The root may be read-only (--read-only): what is written goes to /cache. To serve over
# HTTP see docs/deploy/containers.md.
#
# TensorRT cannot be imported while the image is built: only `--runtime nvidia` mounts the driver's
# libraries. For another L4T give its image: --build-arg BASE=... --build-arg TENSORRT=
ARG BASE=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime
FROM ${BASE}

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The build of TensorRT that JetPack 6.2 has: plans of another build are refused, so with it the
# container and the host can share theirs. Empty: keep the image's.
ARG TENSORRT=10.3.0.30-1+cuda12.5
ARG REPOSITORY=r36.4
ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /usr/share/keyrings/jetson.asc
RUN if [ -n "${TENSORRT}" ]; then \
        chmod 644 /usr/share/keyrings/jetson.asc \
        && echo "deb [signed-by=/usr/share/keyrings/jetson.asc]" \
            "https://repo.download.nvidia.com/jetson/common ${REPOSITORY} main" \
            > /etc/apt/sources.list.d/jetson.list \
        && apt-get update \
        && apt-get install --yes --no-install-recommends \
            --allow-downgrades --allow-change-held-packages \
            "libnvinfer10=${TENSORRT}" \
            "libnvinfer-lean10=${TENSORRT}" \
            "libnvinfer-plugin10=${TENSORRT}" \
            "libnvonnxparsers10=${TENSORRT}" \
            "python3-libnvinfer=${TENSORRT}" \
        && rm -rf /var/lib/apt/lists/*; \
    fi

# The environment sees the image's TensorRT. Packages from pip take precedence over the system's.
RUN python3 -m venv --system-site-packages /opt/samclip
ENV PATH=/opt/samclip/bin:${PATH}

# Only the files of the package: no tests, no history.
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE MANIFEST.in constraints.txt ./
COPY samclip samclip
RUN python -m pip install --constraint constraints.txt '.[serve]' 'cuda-python==12.9.6' \
    && rm -rf /src/*

# Plans are built for one GPU and one TensorRT, so they belong to the machine, not to the image.
# samclip loads only plans of the user who runs it, or of root: a new volume takes over this owner.
RUN useradd --create-home --uid 1000 --groups video samclip \
    && mkdir /cache && chown samclip: /cache
ENV SAMCLIP_CACHE_DIR=/cache TMPDIR=/cache PYTHONDONTWRITEBYTECODE=1
VOLUME /cache
WORKDIR /photos
USER 1000:1000
EXPOSE 8000

# Whether TensorRT still reaches the GPU. It imports the library, so it is asked for seldom.
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s \
    CMD ["python", "-c", "import sys; from samclip.engines.registry import probes; sys.exit(not probes()['tensorrt'].available)"]
# samclip ends what it began, and removes what it left half written.
STOPSIGNAL SIGTERM
ENTRYPOINT ["samclip"]
CMD ["doctor"]
