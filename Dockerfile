# The engine without its development tools. The first stage builds and is thrown away; the second
# holds one virtual environment with what the lock names for running, and a user without rights.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock ./
# The lock's first part is the runtime; the tool that builds the wheel stands in the second.
RUN sed '/^# ---- development/,$d' requirements.lock > runtime.lock \
    && python -m venv /opt/passby \
    && /opt/passby/bin/pip install --require-hashes -r runtime.lock \
    && python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY geofences geofences
COPY loadtest loadtest
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/passby/bin/pip install --no-deps /wheel/*.whl

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin passby \
    && install -d -o passby -g passby -m 0700 /data
COPY --from=build /opt/passby /opt/passby
ENV PATH=/opt/passby/bin:$PATH PYTHONUNBUFFERED=1 PASSBY_HOST=0.0.0.0 PASSBY_PORT=8080 PASSBY_DATA=/data
USER passby
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["passby"]
CMD ["serve"]
