# Two images from one base: `service` (the default, last stage; no torch) and `train` (adds torch and torchvision).
# Needs no BuildKit feature, no registry but the base image's, and no network once it is built.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ---- what both images stand on: the user, the folders that volumes are mounted on, the environment
FROM ${PYTHON_IMAGE} AS base
# A named volume takes over owner and mode of the folder it is first mounted on, so nobody has to be root to set one up.
RUN groupadd --gid 10001 cxr \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin cxr \
 && install -d -o 10001 -g 10001 -m 0700 /state /secrets /runs \
      /credentials/admin /credentials/database /credentials/gateway /credentials/orthanc /credentials/prometheus \
      /volumes/postgres /volumes/prometheus
# One thread per worker in the numeric libraries, and none that waits for work by spinning: the service has its own workers (see the
# README's settings). Here and not only in the process, because a BLAS makes its pool when Python loads it.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OMP_WAIT_POLICY=PASSIVE \
    OPENBLAS_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1 \
    CXR_BUNDLES_DIR=/opt/cxr/model_bundles \
    CXR_HOST=0.0.0.0 \
    CXR_PORT=8000 \
    CXR_STATE_DIR=/state
WORKDIR /opt/cxr

# ---- the service's environment; pip itself stays outside it
FROM base AS service-venv
# Where pip may look besides its index, e.g. for a CPU build of torch; both are for the build only.
ARG PIP_FIND_LINKS
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
RUN python -m venv --without-pip /opt/cxr
COPY pyproject.toml constraints.txt ./
# Dependencies first and on their own, so that a change of the source does not fetch them again.
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['postgres'], *p['optional-dependencies']['dimse'], *p['optional-dependencies']['openvino'], sep='\n')" >requirements.txt \
 && python -m pip --python /opt/cxr/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY app app
COPY model_bundles /opt/cxr/model_bundles
# pip gives files the usual modes; the bundles may come from a checkout with a private umask.
RUN python -m pip --python /opt/cxr/bin/python install --no-cache-dir --no-deps . \
 && chmod -R a+rX,go-w /opt/cxr/model_bundles

FROM service-venv AS train-venv
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['optional-dependencies']['train'], sep='\n')" >requirements-train.txt \
 && python -m pip --python /opt/cxr/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements-train.txt
COPY training training
RUN python -m pip --python /opt/cxr/bin/python install --no-cache-dir --no-deps --force-reinstall .

# ---- training: recipes in, bundles out; writes under /runs
FROM base AS train
LABEL org.opencontainers.image.title="cxr-triage-train" \
      org.opencontainers.image.description="Makes the bundles of cxr-triage." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=train-venv /opt/cxr /opt/cxr
ENV PATH=/opt/cxr/bin:$PATH \
    MPLCONFIGDIR=/tmp
USER 10001:10001
WORKDIR /runs
STOPSIGNAL SIGTERM
CMD ["python", "-m", "training", "--help"]

# ---- the service
FROM base AS service
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cxr-triage" \
      org.opencontainers.image.description="Chest X-ray triage as a service: calibrated, audited, explained. Decision support, never autonomous diagnosis." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=service-venv /opt/cxr /opt/cxr
ENV PATH=/opt/cxr/bin:$PATH
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: a database that is away is no reason to restart this container. Compose asks for ready.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['CXR_PORT'] + '/health/live', timeout=4)"]
CMD ["cxr", "serve"]
