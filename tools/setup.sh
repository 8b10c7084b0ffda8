#!/usr/bin/env bash
# Makes .venv with everything that the demo and the tests need; no other environment is changed.
#   Detectron2: the one that $PYTHON already has, else built from GitHub, else the light runtime.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
GITHUB=https://github.com/facebookresearch/detectron2
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }

rm -rf .venv
if "$PYTHON" -c "import detectron2" 2>/dev/null; then
    "$PYTHON" -m venv --system-site-packages .venv
    said="Detectron2: the one installed for $PYTHON"
else
    "$PYTHON" -m venv .venv
    pip install torch torchvision
    if ! GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote --exit-code $GITHUB HEAD >/dev/null 2>&1; then
        why="$GITHUB cannot be reached"
    # its model zoo imports pkg_resources, which setuptools dropped
    elif ! { pip install 'setuptools<81' wheel ninja && pip install --no-build-isolation "git+$GITHUB"; }; then
        why="building it from $GITHUB failed"
    fi
    if [ -z "${why:-}" ]; then
        said="Detectron2: built from $GITHUB"
    else
        pip install --editable ./detectron2_light
        said="Detectron2: the light runtime of this project, single process, since $why"
    fi
fi
pip install --editable '.[dev]'
touch .venv/complete
echo "$said"
