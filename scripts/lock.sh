#!/usr/bin/env bash
# Resolves pyproject.toml into hash-locked files for all platforms and Python versions; no index address is written.
set -euo pipefail
options=(--universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url --no-annotate)
uv pip compile "${options[@]}" pyproject.toml -o requirements.lock --quiet
uv pip compile "${options[@]}" pyproject.toml --group dev -o requirements-dev.lock --quiet
# What the extra adds, so that the image of deploy/ installs it beside the rest.
uv pip compile "${options[@]}" --no-deps deploy/requirements.in -o deploy/requirements.lock --quiet
