# Two images: `operator` (the controller) and `trainer` (prepares, trains and serves). `make images` builds both, or:
#   docker build --target operator --tag topcoat/operator .
# BASE is any Debian-like image with Python 3.11 or later and its venv module.
# A mirror of the package index comes from the caller and leaves no trace: --secret id=pip,src=pip.conf, and with
# `cert = /run/secrets/ca` in that file --secret id=ca,src=bundle.pem
ARG BASE=docker.io/library/python:3.11-slim

# What installs and lists packages. It is only ever mounted into a step of an image, never part of one.
FROM ${BASE} AS installer
RUN python3 -m venv /opt/installer
COPY constraints/sbom.txt /opt/
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    PIP_CONFIG_FILE=/run/secrets/pip /opt/installer/bin/pip install --quiet --disable-pip-version-check --no-cache-dir \
    --only-binary :all: --require-hashes --requirement /opt/sbom.txt
# Older buildah mounts a stage that it knows already without its last step; so the last one does nothing.
WORKDIR /opt

# The project's own code, and the record from which it learns its version.
FROM ${BASE} AS record
COPY pyproject.toml LICENSE /opt/
RUN python3 -c "import pathlib, tomllib; \
version = tomllib.loads(pathlib.Path('/opt/pyproject.toml').read_text())['project']['version']; \
record = pathlib.Path(f'/opt/topcoat/topcoat-{version}.dist-info'); record.mkdir(parents=True); \
(record / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: topcoat\nVersion: {version}\n'); \
(record / 'LICENSE').write_text(pathlib.Path('/opt/LICENSE').read_text())"

# Unchecked bytecode is right in an image: nothing in it changes, and a read-only disk could keep no newer one.
FROM record AS operator-code
COPY operator/topcoat /opt/topcoat/topcoat
RUN chmod -R a+rX /opt/topcoat && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/topcoat

FROM record AS trainer-code
COPY operator/topcoat/__init__.py /opt/topcoat/topcoat/
COPY operator/topcoat/api /opt/topcoat/topcoat/api
COPY trainer/topcoat_trainer /opt/topcoat/topcoat_trainer
RUN chmod -R a+rX /opt/topcoat && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/topcoat

# What both images share: who runs in them, and an environment that finds the code beside the packages. Nothing but
# /tmp needs to be writable.
FROM ${BASE} AS runtime
RUN echo 'topcoat:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'topcoat:x:65532:' >> /etc/group
RUN python3 -m venv --without-pip /opt/venv \
    && echo /opt/topcoat > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/topcoat.pth"
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp

# Packages first, in a layer that changes only with constraints/; wheels only, each checked by its hash. Some carry files
# for a newer Python than this one: those cannot be compiled, and nothing imports them.
FROM runtime AS operator
COPY constraints/operator.txt /usr/share/topcoat/constraints.txt
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    --mount=type=bind,from=installer,source=/opt/installer,target=/mnt \
    PIP_CONFIG_FILE=/run/secrets/pip /mnt/bin/python -m pip --python /opt/venv/bin/python install --quiet --no-compile \
    --disable-pip-version-check --no-cache-dir --root-user-action=ignore --only-binary :all: \
    --require-hashes --requirement /usr/share/topcoat/constraints.txt \
    && { python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true; }
RUN --mount=type=bind,from=installer,source=/opt/installer,target=/mnt \
    /mnt/bin/python -m cyclonedx_py environment --output-reproducible \
    --output-file /usr/share/topcoat/sbom.cdx.json /opt/venv/bin/python
COPY --from=operator-code /opt/topcoat /opt/topcoat
USER 65532:65532
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
COPY constraints/trainer.txt /usr/share/topcoat/constraints.txt
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    --mount=type=bind,from=installer,source=/opt/installer,target=/mnt \
    PIP_CONFIG_FILE=/run/secrets/pip /mnt/bin/python -m pip --python /opt/venv/bin/python install --quiet --no-compile \
    --disable-pip-version-check --no-cache-dir --root-user-action=ignore --only-binary :all: \
    --require-hashes --requirement /usr/share/topcoat/constraints.txt \
    && { python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true; }
RUN --mount=type=bind,from=installer,source=/opt/installer,target=/mnt \
    /mnt/bin/python -m cyclonedx_py environment --output-reproducible \
    --output-file /usr/share/topcoat/sbom.cdx.json /opt/venv/bin/python
COPY --from=trainer-code /opt/topcoat /opt/topcoat
USER 65532:65532
CMD ["python", "-m", "topcoat_trainer.run", "--help"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Topcoat trainer" \
      org.opencontainers.image.description="Fine-tunes, judges and serves language models on Kubernetes: the pods' side" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
