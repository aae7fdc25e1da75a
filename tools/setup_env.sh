#!/usr/bin/env bash
# Set up the Python environment of this checkout: tools/setup_env.sh run|test|lint|dist
#
#   run   what demo and training need: torch, mmengine, mmcv with its operators, mmdet, mmseg, us
#   test  that, and the test tools
#   lint  the checkers, and torch for its types
#   dist  what builds and checks the wheel
#
# VENV is the environment's folder (.venv), PYTHON the interpreter it is made from (python3). PACKAGE is
# a wheel or an sdist of ours to be installed, where it shall not be this checkout (editable). Files in
# the folder VERSIONS go before those of the same name in requirements/: another set of versions.
# What openmmlab.txt does not name is left out: mmcv, or the frameworks, or what no_deps.txt has of them.
# WHEELS is a folder where a compiled mmcv is kept for the next environment.
# Every finished step leaves a stamp in VENV, a hash of what the step depends on. An interrupted
# set-up therefore goes on where it stopped, and a change repeats only the steps that it concerns.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

goal=${1:-}
case $goal in
    run | test | lint | dist) ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
VERSIONS=${VERSIONS:-requirements}
PACKAGE=${PACKAGE:-}
WHEELS=${WHEELS:-}
[[ -z $WHEELS ]] || export PIP_FIND_LINKS="${PIP_FIND_LINKS:-} $WHEELS"
python=$VENV/bin/python
stamps=$VENV/.setup
checked=

say() { printf 'set-up: %s\n' "$*"; }
die() { printf 'set-up: %s\n' "$@" >&2; exit 1; }
trap '[[ $? -eq 0 ]] || say "not finished; the same command goes on where this one stopped" >&2' EXIT

trains() { [[ $goal == run || $goal == test ]]; }

# ------------------------------------------------------------------------------- steps

# step NAME KEY TITLE: run install_NAME unless it has succeeded before with the same KEY.
step() {
    local name=$1 key
    key=$(printf '%s' "$2" | sha256sum)
    [[ -f $stamps/$name && $(<"$stamps/$name") == "$key" ]] && return
    [[ -n $checked ]] || check_prerequisites
    say "$3"
    "install_$name"
    mkdir -p "$stamps"
    printf '%s\n' "$key" >"$stamps/$name.new"
    mv "$stamps/$name.new" "$stamps/$name"
}

# The requirements file of a name.
file() { if [[ -f $VERSIONS/$1.txt ]]; then echo "$VERSIONS/$1.txt"; else echo "requirements/$1.txt"; fi; }

# What a requirements file says, without its comments.
content() { sed '/^#/d' "$(file "$1")"; }

# The line of openmmlab.txt that pins a package, or the fork of it that installs the same modules.
pin() { sed -nE "/^(onedl-)?$1==/p" "$(file openmmlab)"; }

# What openmmlab.txt has besides mmengine and mmcv.
frameworks() { content openmmlab | sed -E '/^(onedl-)?(mmengine|mmcv)==/d'; }

pip() { "$python" -m pip --disable-pip-version-check --quiet --quiet "$@"; }  # errors only

pip_install() { pip install --constraint "$(file build)" "$@"; }

check_prerequisites() {
    checked=yes
    local interpreter=$PYTHON missing=() header
    [[ -x $python ]] && interpreter=$python
    if ! "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        missing+=("Python 3.10 or newer, which '$interpreter' is not (make PYTHON=python3.11 ...)")
    else
        "$interpreter" -c 'import venv, ensurepip' 2>/dev/null ||
            missing+=("Python's venv module (Debian: python3-venv)")
        header=$("$interpreter" -c \
            'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
        ! trains || [[ -f $header ]] ||
            missing+=("Python's headers: there is no $header (Debian: python3-dev)")
    fi
    if trains; then
        for tool in gcc g++ make; do
            command -v "$tool" >/dev/null || missing+=("$tool (Debian: build-essential)")
        done
    fi
    [[ ${#missing[@]} -eq 0 ]] || die 'this machine lacks' "${missing[@]/#/  }"
}

install_venv() { "$PYTHON" -m venv "$VENV"; }

install_build() { pip install --requirement "$(file build)"; }

install_torch() {
    pip_install --requirement "$(file torch)"
    "$python" -W ignore -c 'import torch'
}

# mmengine's fork no longer brings OpenCV, which mmcv needs.
install_mmengine() {
    pip_install "$(pin mmengine)" opencv-python
    headless_opencv
    "$python" -W ignore -c 'import mmengine'
}

# OpenCV's windows need libGL, which bare containers and servers lack; nothing here opens one.
headless_opencv() {
    local error version
    error=$("$python" -c 'import cv2' 2>&1) && return
    [[ $error == *'cannot open shared object file'* ]] || die 'OpenCV does not work:' "$error"
    version=$("$python" -c \
        'from importlib.metadata import version; print(version("opencv-python"))')
    say "opencv-python needs a library that is not here (${error##*ImportError: });" \
        "opencv-python-headless $version takes its place"
    pip uninstall --yes opencv-python
    pip install --no-deps --force-reinstall "opencv-python-headless==$version"
    "$python" -c 'import cv2'
}

# A wheel if pip's own search places (PIP_FIND_LINKS) have one, else compiled. Without dependencies:
# mmengine has brought them, and opencv-python must not come back.
install_mmcv() {
    local wheels=$VENV/mmcv-wheel
    rm -rf "$wheels"
    local reason
    if reason=$(pip download --only-binary=:all: --no-deps --dest "$wheels" "$(pin mmcv)" 2>&1); then
        say "mmcv from the wheel $(basename "$wheels"/*.whl)"
        pip install --no-deps --force-reinstall "$wheels"/*.whl
        mmcv_operators && rm -r "$wheels" && return
        say 'that wheel was built for another torch: compiling mmcv instead'
        rm -r "$wheels"
    elif [[ $reason != *'No matching distribution'* ]]; then
        die 'pip could not look for mmcv:' "$reason"
    fi
    compile_mmcv "$wheels"
    pip install --no-deps --force-reinstall "$wheels"/*.whl
    mmcv_operators || die "mmcv was compiled, but its operators cannot be imported (log: $log)"
    [[ -z $WHEELS ]] || { mkdir -p "$WHEELS" && mv "$wheels"/*.whl "$WHEELS"; }
    rm -r "$wheels" "$sources"
}

mmcv_operators() { "$python" -W ignore -c 'import mmcv.ops'; }

# The unpacked source stays in VENV until mmcv is installed, with what is already compiled.
compile_mmcv() {
    log=$VENV/mmcv-build.log
    sources=$VENV/mmcv-source-$(printf '%s' "$mmcv_key" | sha256sum | cut -c1-12)
    export MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)}
    "$python" -W ignore - <<'PYTHON' || exit 1
import sys
import torch
from torch.utils.cpp_extension import CUDA_HOME

if torch.cuda.is_available() and CUDA_HOME is None:
    sys.exit(
        'set-up: this machine has a GPU but no CUDA toolkit (nvcc), which mmcv is compiled with.\n'
        f'  Install that of CUDA {torch.version.cuda}, or set CUDA_VISIBLE_DEVICES= to use the CPU.'
    )
PYTHON
    say "mmcv has no wheel for this machine: compiling it with $MAX_JOBS processes" \
        "(about 17 minutes on two cores; log: $log)"
    if [[ ! -f $sources/setup.py ]]; then
        rm -rf "$VENV"/mmcv-source-* "$VENV/mmcv-sdist"
        pip download --no-binary :all: --no-deps --no-build-isolation --dest "$VENV/mmcv-sdist" \
            "$(pin mmcv)"
        mkdir "$sources.new"
        tar -xzf "$VENV"/mmcv-sdist/*.tar.gz --strip-components=1 -C "$sources.new"
        mv "$sources.new" "$sources"
        rm -r "$VENV/mmcv-sdist"
    fi
    # torch looks for ninja in PATH.
    if ! PATH=$(cd "$VENV/bin" && pwd):$PATH "$python" -m pip wheel --verbose --no-deps \
        --no-build-isolation --wheel-dir "$1" "$sources" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "mmcv could not be compiled; the whole log: $log"
    fi
}

install_openmmlab() {
    local packages
    mapfile -t packages < <(frameworks)
    pip_install "${packages[@]}"
    headless_opencv  # they may ask for the other one again
    "$python" -W ignore -c 'import mmdet.apis, mmseg.apis'
}

install_package() {
    if [[ -n $PACKAGE ]]; then
        pip install --no-deps --no-build-isolation --force-reinstall "$PACKAGE"
    else
        pip install --no-deps --no-build-isolation --editable .
    fi
    "$python" -W ignore -c 'import vitbackbones'
}

install_test() {
    pip_install --requirement "$(file test)"
    if [[ -n $(content no_deps) ]]; then
        pip install --no-deps --requirement "$(file no_deps)"
    fi
}

install_lint() { pip_install --requirement "$(file lint)"; }

install_dist() { pip_install --requirement "$(file dist)"; }

# -------------------------------------------------------------------------------- goals

step venv "$VENV" "virtual environment $VENV"
step build "$(content build)" 'build tools'
if [[ $goal != dist ]]; then
    step torch "$(content torch)" "$(content torch)"
fi
if trains; then
    step mmengine "$(pin mmengine)" "$(pin mmengine)"
    if [[ -n $(pin mmcv) ]]; then
        # The operators fit one version of torch only.
        mmcv_key="$(content torch) $(pin mmcv)"
        step mmcv "$mmcv_key" "$(pin mmcv), with operators"
    fi
    if [[ -n $(frameworks) ]]; then
        step openmmlab "$(content openmmlab)" "$(frameworks | tr '\n' ' ')"
    fi
    if [[ -n $PACKAGE ]]; then
        step package "$(sha256sum "$PACKAGE")" "$PACKAGE"
    else
        step package "$PWD $(cat setup.py pyproject.toml vitbackbones/__init__.py)" 'vitbackbones'
    fi
fi
if [[ $goal == test ]]; then
    step test "$(content test) $(content no_deps)" 'test tools'
fi
if [[ $goal == lint ]]; then
    step lint "$(content lint)" 'lint tools'
fi
if [[ $goal == dist ]]; then
    step dist "$(content dist)" 'packaging tools'
fi
