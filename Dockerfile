# One image for all services and the command line; the target `attach` adds what mounts a volume. The
# base is an argument, so that it can be built where no registry is: `make image BASE=...` (k8s/README.md).
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/slackwater
WORKDIR /src
COPY requirements-runtime.lock ./
RUN /opt/slackwater/bin/pip install --quiet --require-hashes -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY slackwater slackwater
COPY services services
# Byte code is written now: the image runs with a read-only root.
RUN /opt/slackwater/bin/pip install --quiet --no-deps --no-build-isolation . \
    && /opt/slackwater/bin/pip uninstall --quiet --yes pip setuptools \
    && /opt/slackwater/bin/python -m compileall -q /opt/slackwater/lib

FROM ${BASE} AS service
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slackwater" \
      org.opencontainers.image.description="Replication of block volumes with in-band control messages" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# What the checks of file systems run.
RUN { command -v e2fsck && command -v xfs_repair; } >/dev/null \
    || { apt-get update -qq && apt-get install -y -qq --no-install-recommends e2fsprogs xfsprogs \
         && rm -rf /var/lib/apt/lists/*; }
COPY --from=build /opt/slackwater /opt/slackwater
ENV PATH=/opt/slackwater/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN install -d -o 65532 -g 65532 /data
USER 65532:65532
VOLUME /data
EXPOSE 7460 7461 7462 7480 7481 7482 9460 9461 9462 10809 10810
CMD ["slackwater", "--help"]

# `slackwater attach` beside an application (k8s/components/attach): as root, with the programs that go
# from an export to a mounted file system.
FROM service AS attach
USER 0:0
RUN { command -v nbdfuse && command -v nbdkit && command -v nbd-client && command -v mount; } >/dev/null \
    || { export DEBIAN_FRONTEND=noninteractive; apt-get update -qq \
         && apt-get install -y -qq --no-install-recommends fuse3 libnbd-bin mount \
         nbd-client nbdkit util-linux && rm -rf /var/lib/apt/lists/*; }
LABEL org.opencontainers.image.title="slackwater-attach" \
      org.opencontainers.image.description="Mounts volumes of Slackwater beside an application"
CMD ["slackwater", "attach", "--help"]

# What is built when no target is named.
FROM service
