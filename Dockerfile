# One image for every role; docker-compose.yml chooses the command.
FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PATH=/opt/distillery/.venv/bin:$PATH
WORKDIR /opt/distillery
COPY requirements.lock ./
RUN python -m venv .tool && .tool/bin/pip install uv && .tool/bin/uv venv .venv \
 && .tool/bin/uv pip sync --no-cache --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
COPY . .
RUN .tool/bin/uv pip install --no-cache --python .venv/bin/python --no-deps --no-build-isolation . && rm -rf .tool \
 && useradd --create-home --uid 10001 distillery && mkdir -p /var/lib/distillery && chown distillery /var/lib/distillery
USER distillery
VOLUME /var/lib/distillery
EXPOSE 8000
CMD ["python", "-m", "app.serve", "--host", "0.0.0.0", "--port", "8000"]
