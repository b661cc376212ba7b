# syntax=docker/dockerfile:1
# Two images from one file:  docker build --target operator .   docker build --target server .
# The same hash-pinned requirement files as in development; no index address stands here.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/headrace/bin:$PATH
RUN useradd --uid 65532 --user-group --no-create-home --shell /usr/sbin/nologin headrace

FROM base AS build
COPY requirements/build.txt /src/requirements/
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --require-hashes -r /src/requirements/build.txt \
    && python -m venv --without-pip /opt/headrace

FROM build AS build-operator
COPY requirements/operator.txt /src/requirements/
RUN /opt/build/bin/uv pip install --no-cache --python /opt/headrace/bin/python --require-hashes -r /src/requirements/operator.txt
COPY operator /src/operator
RUN /opt/build/bin/uv build --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /wheels /src/operator \
    && /opt/build/bin/uv pip install --no-cache --python /opt/headrace/bin/python --no-deps /wheels/*.whl

FROM build AS build-server
COPY requirements/server.txt /src/requirements/
RUN /opt/build/bin/uv pip install --no-cache --python /opt/headrace/bin/python --require-hashes -r /src/requirements/server.txt
COPY server /src/server
RUN /opt/build/bin/uv build --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /wheels /src/server \
    && /opt/build/bin/uv pip install --no-cache --python /opt/headrace/bin/python --no-deps /wheels/*.whl

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
