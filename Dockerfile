# syntax=docker/dockerfile:1
# Three images from one file:  docker build --target operator .   docker build --target router .   docker build --target server .
# The server for machines without a GPU:  docker build --target server --build-arg ACCELERATOR=cpu .
# The same hash-pinned requirement files as in development; no index address stands here. Pin the base by its digest where
# you build:  --build-arg PYTHON=python:3.11-slim-bookworm@sha256:...
ARG PYTHON=python:3.11-slim-bookworm
# cuda or cpu; the names of stages below end in it
ARG ACCELERATOR=cuda

FROM ${PYTHON} AS base
# HOME: the root file system is read-only in a pod, and Triton writes what it compiled there; /tmp is a volume
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/headrace/bin:$PATH HOME=/tmp
RUN useradd --uid 65532 --user-group --no-create-home --shell /usr/sbin/nologin headrace

FROM base AS build
# what was downloaded once is there for the next build, and in no image
ENV UV_LINK_MODE=copy
COPY requirements/build.txt /src/requirements/
RUN --mount=type=cache,target=/tmp/.cache \
    python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r /src/requirements/build.txt \
    && python -m venv --without-pip /opt/headrace

FROM build AS build-operator
COPY requirements/operator.txt /src/requirements/
RUN --mount=type=cache,target=/tmp/.cache \
    /opt/build/bin/uv pip install --python /opt/headrace/bin/python --compile-bytecode --require-hashes -r /src/requirements/operator.txt
COPY operator /src/operator
RUN --mount=type=cache,target=/tmp/.cache \
    /opt/build/bin/uv build --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /wheels /src/operator \
    && /opt/build/bin/uv pip install --python /opt/headrace/bin/python --compile-bytecode --no-deps /wheels/*.whl

FROM build AS build-router
COPY requirements/router.txt /src/requirements/
RUN --mount=type=cache,target=/tmp/.cache \
    /opt/build/bin/uv pip install --python /opt/headrace/bin/python --compile-bytecode --require-hashes -r /src/requirements/router.txt
COPY router /src/router
RUN --mount=type=cache,target=/tmp/.cache \
    /opt/build/bin/uv build --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /wheels /src/router \
    && /opt/build/bin/uv pip install --python /opt/headrace/bin/python --compile-bytecode --no-deps /wheels/*.whl

FROM build AS packages-cuda
COPY requirements/server.txt /src/requirements/
RUN --mount=type=cache,target=/tmp/.cache \
    /opt/build/bin/uv pip install --python /opt/headrace/bin/python --compile-bytecode --require-hashes -r /src/requirements/server.txt

FROM build AS packages-cpu
COPY requirements/server-cpu.txt requirements/server.txt /src/requirements/
RUN --mount=type=cache,target=/tmp/.cache \
    /opt/build/bin/uv pip install --python /opt/headrace/bin/python --compile-bytecode --require-hashes -r /src/requirements/server-cpu.txt
# torch's CPU build is in torch's own index, which uv knows. Its version is pinned; its hash is not.
RUN --mount=type=cache,target=/tmp/.cache \
    sed -n 's/^\(torch==[^ ]*\).*/\1/p' /src/requirements/server.txt > /src/torch.txt \
    && /opt/build/bin/uv pip install --python /opt/headrace/bin/python --compile-bytecode --no-deps --torch-backend cpu -r /src/torch.txt

# hadolint ignore=DL3006
FROM packages-${ACCELERATOR} AS build-server
COPY server /src/server
RUN --mount=type=cache,target=/tmp/.cache \
    /opt/build/bin/uv build --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /wheels /src/server \
    && /opt/build/bin/uv pip install --python /opt/headrace/bin/python --compile-bytecode --no-deps /wheels/*.whl

FROM base AS machine-cpu

FROM base AS machine-cuda
# Triton compiles a driver of its own with the C compiler when the first kernel runs. The machine's driver comes from the node.
# Debian keeps one version of a package, so a pinned one would be gone after its next fix.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM machine-${ACCELERATOR} AS server
COPY --from=build-server /opt/headrace /opt/headrace
USER 65532:65532
ENTRYPOINT ["headrace"]
CMD ["serve", "--help"]

FROM base AS router
COPY --from=build-router /opt/headrace /opt/headrace
USER 65532:65532
ENTRYPOINT ["headrace"]
CMD ["route", "--help"]

FROM base AS operator
COPY --from=build-operator /opt/headrace /opt/headrace
USER 65532:65532
ENTRYPOINT ["headrace"]
CMD ["operator", "--help"]
