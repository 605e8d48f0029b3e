# samclip's runtime for an Orin with JetPack 6.1 or 6.2 (L4T 36.4). TensorRT 10.3, CUDA 12.6 and
# Python 3.10 come from the base image; pip installs what JetPack does not have.
#
#   docker build --file docker/jetson.Dockerfile --tag samclip:jetson .
#   docker run --rm --runtime nvidia --volume samclip-cache:/cache \
#       --volume /etc/nv_tegra_release:/etc/nv_tegra_release:ro samclip:jetson doctor
#
# TensorRT cannot be imported while the image is built: only `--runtime nvidia` mounts the driver's
# libraries. For another L4T give its image: --build-arg BASE=...
ARG BASE=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime
FROM ${BASE}

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The environment sees the image's TensorRT. Packages from pip take precedence over the system's.
RUN python3 -m venv --system-site-packages /opt/samclip
ENV PATH=/opt/samclip/bin:${PATH}

# Only the files of the package: no tests, no history.
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE MANIFEST.in constraints.txt ./
COPY samclip samclip
RUN python -m pip install --constraint constraints.txt . 'cuda-python>=12.9.2,<13' \
    && rm -rf /src/*

# Plans are built for one GPU and one TensorRT, so they belong to the machine, not to the image.
ENV SAMCLIP_CACHE_DIR=/cache
VOLUME /cache
WORKDIR /photos
ENTRYPOINT ["samclip"]
CMD ["doctor"]
