# syntax=docker/dockerfile:1
# Two images from one file:  docker build --target operator .   docker build --target server .
# The same hash-pinned requirement files as in development; no index address stands here.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/headrace/bin:$PATH
RUN useradd --uid 65532 --user-group --no-create-home --shell /usr/sbin/nologin headrace

FROM base AS build
COPY requirements/uv.txt /src/requirements/
RUN python -m venv /opt/headrace && pip install --no-cache-dir --require-hashes -r /src/requirements/uv.txt
ENV VIRTUAL_ENV=/opt/headrace

FROM build AS build-operator
COPY requirements/operator.txt /src/requirements/
RUN uv pip install --no-cache --require-hashes -r /src/requirements/operator.txt
COPY operator /src/operator
RUN uv pip install --no-cache --no-deps /src/operator

FROM build AS build-server
COPY requirements/server.txt /src/requirements/
RUN uv pip install --no-cache --require-hashes -r /src/requirements/server.txt
COPY server /src/server
RUN uv pip install --no-cache --no-deps /src/server

FROM base AS operator
COPY --from=build-operator /opt/headrace /opt/headrace
USER 65532:65532
ENTRYPOINT ["headrace"]
CMD ["operator", "--help"]

FROM base AS server
COPY --from=build-server /opt/headrace /opt/headrace
USER 65532:65532
ENTRYPOINT ["headrace"]
CMD ["serve", "--help"]
