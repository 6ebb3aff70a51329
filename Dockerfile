# neuroevo and what it needs. With CUDA, whose libraries come with PyTorch's wheels: the machine needs a driver and NVIDIA's container toolkit.
#   docker build -t neuroevo .
#   docker run --rm --gpus all -v "$PWD:/work" neuroevo run pets.yaml
# For a CPU, much smaller, from the index of PyTorch's wheels for CPUs, whose address its page on installation tells:
#   docker build -t neuroevo:cpu --build-arg TORCH_INDEX=https://... .
#   docker run --rm -v "$PWD:/work" neuroevo:cpu run pets.yaml
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# of wheels of PyTorch for CPUs; empty: those that pip takes, with CUDA
ARG TORCH_INDEX=
# of pyproject.toml, with commas between
ARG EXTRAS=demo,onnx,tracking,tune
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN python -m venv /opt/neuroevo
ENV PATH=/opt/neuroevo/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY neuroevo neuroevo
# Versions are pyproject.toml's; of an index for CPUs they are later than the same ones without (2.9.0+cpu).
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$EXTRAS]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/neuroevo /opt/neuroevo
RUN useradd --create-home --uid 1000 neuroevo && mkdir /work && chown neuroevo /work
ENV PATH=/opt/neuroevo/bin:$PATH NEUROEVO_CACHE=/home/neuroevo/cache
USER 1000
WORKDIR /work
ENTRYPOINT ["neuroevo"]
CMD ["--help"]
