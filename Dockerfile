# One image for servers and workers; the command says which. The database is yours: set SWITCHTOWER_MONGODB_URL.
FROM python:3.12-slim AS build
WORKDIR /src
RUN pip install --no-cache-dir build
COPY pyproject.toml hatch_build.py constraints.txt README.md LICENSE ./
COPY switchtower switchtower
COPY schema schema
COPY app app
COPY workers workers
RUN python -m build --wheel --outdir /wheels

FROM python:3.12-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/*.whl)[server,demo]" \
    && useradd --system --create-home --home-dir /srv/switchtower --uid 10001 switchtower
USER switchtower
WORKDIR /srv/switchtower
EXPOSE 8420
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8420/readyz', timeout=2)"]
ENTRYPOINT ["switchtower"]
CMD ["serve"]
