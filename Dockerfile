# The service from the wheel: `docker build -t easyedit-personal .`, or `docker compose up` (compose.yaml).
# Everything is pinned by constraints.txt. On x86, PyPI's torch brings CUDA along; without a GPU, name PyTorch's own index
# of CPU wheels: --build-arg TORCH_INDEX=...
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE constraints.txt ./
COPY hparams hparams
COPY easyedit_personal easyedit_personal
RUN pip install --no-cache-dir -c constraints.txt build setuptools wheel \
    && python -m build --wheel --no-isolation --outdir /wheels

FROM python:${PYTHON}
ARG TORCH_INDEX=""
COPY constraints.txt /install/constraints.txt
# First and alone: it is the largest part, and changes least.
RUN pip install --no-cache-dir -c /install/constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY --from=build /wheels /install/wheels
RUN pip install --no-cache-dir -c /install/constraints.txt "$(echo /install/wheels/*.whl)[serve,postgres,encryption]"

# The volume holds the store, if it is SQLite, and the model, which the first start downloads.
RUN useradd --create-home --home-dir /data --uid 10001 personal
USER 10001
WORKDIR /data
VOLUME /data
# glibc keeps memory for every thread: with two arenas it rose by half as much under load (benchmarks/README.md).
ENV HOME=/data EASYEDIT_PERSONAL_STORE=/data/edits.db PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
EXPOSE 8000
# Alive, not ready: a container whose database is away is not to be restarted for it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["easyedit-personal"]
# Other machines can reach it, so it does not start without a token: --token-file or --users-file.
CMD ["serve", "--host", "0.0.0.0", "--request-log", "-"]
