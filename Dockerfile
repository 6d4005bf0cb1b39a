# The worker and the operators' commands: docker build -t replicator . && docker run --env-file … replicator
# Debian 13 has PostgreSQL 17's pg_dump, which reads sources up to 17. For a source of 18:
# --build-arg POSTGRES_CLIENT=18 takes it from the PostgreSQL project's own packages.
# Python is of the version that the locks were made with and the tests run on.
ARG BASE=python:3.11-slim-trixie

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && python -m venv /opt/replicator
WORKDIR /build
COPY requirements-runtime.lock ./
RUN /opt/replicator/bin/pip install --require-hashes --only-binary :all: -r requirements-runtime.lock
COPY pyproject.toml README.md ./
COPY replicator replicator
COPY bootstrap bootstrap
COPY monitoring monitoring
# The hot path is compiled here, and the image is not made without
RUN /opt/replicator/bin/pip install --no-deps --no-build-isolation . \
 && /opt/replicator/bin/replicator --version | grep -q '(compiled)' \
 && /opt/replicator/bin/pip uninstall --yes cython setuptools pip

FROM ${BASE}
ARG POSTGRES_CLIENT=17
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates postgresql-client-common \
 && if [ "$POSTGRES_CLIENT" -gt 17 ]; then /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y; fi \
 && apt-get install --yes --no-install-recommends "postgresql-client-$POSTGRES_CLIENT" \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home replicator
COPY --from=build /opt/replicator /opt/replicator
# The programs themselves, not Debian's wrapper of them, which would choose a version
ENV PATH=/opt/replicator/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    REPLICATOR_PG_BIN=/usr/lib/postgresql/${POSTGRES_CLIENT}/bin \
    REPLICATOR_HTTP_HOST=0.0.0.0 \
    REPLICATOR_HTTP_PORT=9600
USER replicator
EXPOSE 9600
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['REPLICATOR_HTTP_PORT'] + '/healthz', timeout=4)"]
# Exec form: replicator is process 1 and gets SIGTERM itself; it waits for its own children.
ENTRYPOINT ["replicator"]
CMD ["run"]
