# docker build -t cellfm_torch .                                                        for CPUs
# docker build -t cellfm_torch --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .    for NVIDIA GPUs
# docker run --rm -v "$PWD:/data" cellfm_torch embed cells.h5ad --model models/mine
FROM python:3.11-slim AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY . /source
RUN python -m venv /opt/cellfm \
    && /opt/cellfm/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" "$TORCH" \
    && /opt/cellfm/bin/pip install --no-cache-dir "/source[perturb]"

FROM python:3.11-slim
# OpenMP, which torch loads. Debian keeps one version of it per release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/cellfm /opt/cellfm
RUN useradd --create-home --uid 1000 cellfm
USER 1000
ENV PATH=/opt/cellfm/bin:$PATH MPLBACKEND=Agg NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /data
ENTRYPOINT ["cellfm"]
CMD ["--help"]
