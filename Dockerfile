# The server, for a Postgres of your own: `docker compose up`, or set UPSHOT_DATABASE_URL.
# Python's minor version is the one the locks were made with.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# What builds the package stays behind; what runs it is /opt/upshot.
RUN python -m venv /opt/build && python -m venv /opt/upshot
COPY requirements/build.txt requirements/server.txt requirements/
RUN /opt/build/bin/pip install --require-hashes -r requirements/build.txt \
    && /opt/upshot/bin/pip install --require-hashes -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/upshot/bin/pip install --no-deps --no-index dist/*.whl

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 upshot \
    && useradd --system --uid 10001 --gid upshot --no-create-home --home-dir /nonexistent upshot
COPY --from=build /opt/upshot /opt/upshot
# With the port named, a container of any stage answers the health check.
ENV PATH=/opt/upshot/bin:$PATH PYTHONUNBUFFERED=1 UPSHOT_PORT=8484
WORKDIR /opt/upshot
USER 10001:10001
EXPOSE 8484
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['UPSHOT_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["upshot"]
CMD ["serve", "--host", "0.0.0.0"]
