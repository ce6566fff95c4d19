# Two images: `operator` (the controller) and `trainer` (prepares, trains and serves). `make images` builds both, or:
#   docker build --target operator --tag topcoat/operator .
# BASE is any Debian-like image with Python 3.11 or later and its venv module.
# A mirror of the package index comes from the caller and leaves no trace: --secret id=pip,src=pip.conf, and with
# `cert = /run/secrets/ca` in that file --secret id=ca,src=bundle.pem
ARG BASE=docker.io/library/python:3.11-slim

# What installs, and never reaches an image. Only wheels whose hash stands in constraints/ are let in.
FROM ${BASE} AS installer
ENV PIP_CONFIG_FILE=/run/secrets/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_QUIET=1 \
    PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all: PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore \
    PATH=/opt/installer/bin:$PATH
RUN python3 -m venv /opt/installer && python3 -m venv /opt/sbom && python3 -m venv --without-pip /opt/venv
# The project's own code lies beside the packages, in a layer of its own.
RUN echo /opt/topcoat > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/topcoat.pth"
COPY constraints/sbom.txt /opt/constraints/
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    pip --python /opt/sbom/bin/python install --requirement /opt/constraints/sbom.txt

# Unchecked bytecode is right here: nothing in an image changes, and a read-only disk could keep no newer one.
FROM installer AS operator-packages
COPY constraints/operator.txt /opt/constraints/
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    pip --python /opt/venv/bin/python install --requirement /opt/constraints/operator.txt
RUN /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /opt/sbom.cdx.json /opt/venv/bin/python

FROM installer AS trainer-packages
COPY constraints/trainer.txt /opt/constraints/
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    pip --python /opt/venv/bin/python install --requirement /opt/constraints/trainer.txt
RUN /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /opt/sbom.cdx.json /opt/venv/bin/python

# The project's own code, and the record from which it learns its version.
FROM ${BASE} AS record
COPY pyproject.toml LICENSE /opt/
RUN python3 -c "import pathlib, tomllib; \
version = tomllib.loads(pathlib.Path('/opt/pyproject.toml').read_text())['project']['version']; \
record = pathlib.Path(f'/opt/topcoat/topcoat-{version}.dist-info'); record.mkdir(parents=True); \
(record / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: topcoat\nVersion: {version}\n')"

FROM record AS operator-code
COPY operator/topcoat /opt/topcoat/topcoat
RUN chmod -R a+rX /opt/topcoat && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/topcoat

FROM record AS trainer-code
COPY operator/topcoat/__init__.py /opt/topcoat/topcoat/
COPY operator/topcoat/api /opt/topcoat/topcoat/api
COPY trainer/topcoat_trainer /opt/topcoat/topcoat_trainer
RUN chmod -R a+rX /opt/topcoat && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/topcoat

# What both images share: who runs in them, and where they may write. Nothing but /tmp needs to be writable.
FROM ${BASE} AS runtime
RUN echo 'topcoat:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'topcoat:x:65532:' >> /etc/group
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532

FROM runtime AS operator
COPY --from=operator-packages /opt/venv /opt/venv
COPY --from=operator-packages /opt/sbom.cdx.json /usr/share/topcoat/sbom.cdx.json
COPY --from=operator-code /opt/LICENSE /usr/share/topcoat/LICENSE
COPY --from=operator-code /opt/topcoat /opt/topcoat
CMD ["python", "-m", "topcoat.handlers"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Topcoat operator" \
      org.opencontainers.image.description="Fine-tunes, judges and serves language models on Kubernetes: the controller" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS trainer
ENV HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
COPY --from=trainer-packages /opt/venv /opt/venv
COPY --from=trainer-packages /opt/sbom.cdx.json /usr/share/topcoat/sbom.cdx.json
COPY --from=trainer-code /opt/LICENSE /usr/share/topcoat/LICENSE
COPY --from=trainer-code /opt/topcoat /opt/topcoat
CMD ["python", "-m", "topcoat_trainer.run", "--help"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Topcoat trainer" \
      org.opencontainers.image.description="Fine-tunes, judges and serves language models on Kubernetes: the pods' side" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
