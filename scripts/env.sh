# Sourced by the other scripts: change to the repository's root and make sure that a virtual
# environment with the packages of pyproject.toml exists. Uses uv if installed, else venv and pip.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${MILPATH_VENV:-.venv}"
BIN="$VENV/bin"

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
            >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 not found; install one, or set PYTHON to its path" >&2
    return 1
}

make_venv() {
    local python
    python="$(find_python)"
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --python "$python" "$VENV"
        return
    fi
    if ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        # Debian and Ubuntu ship ensurepip in a separate package
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            apt-get update -qq && apt-get install -y -qq python3-venv
        else
            echo "Python's venv module is missing; run apt-get install python3-venv, or install uv" >&2
            return 1
        fi
    fi
    "$python" -m venv "$VENV"
}

# $1: name of this set of packages; the rest: arguments of pip install
install_milpath() {
    local stamp wanted
    stamp="$VENV/.milpath-$1"
    shift
    wanted="$(cat pyproject.toml plugins/*/pyproject.toml constraints.txt | cksum)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    echo "installing milpath into $VENV ..." >&2
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python "$BIN/python" -c constraints.txt "$@"
    else
        "$BIN/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$@"
    fi
    echo "$wanted" >"$stamp"
}

# Windows on Linux without a screen need Xvfb, software OpenGL and the libraries of Qt.
DISPLAY_PACKAGES="xvfb xauth libgl1-mesa-dri libegl1 libfontconfig1 libglib2.0-0 libdbus-1-3
    libxkbcommon0 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1
    libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libxcb-xkb1"

have_display() {
    [ "$(uname)" = Linux ] || return 0
    local libraries
    libraries="$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p)"
    if command -v Xvfb >/dev/null && [[ "$libraries" == *libxcb-cursor.so* ]] &&
        [[ "$libraries" == *libEGL.so* ]] && [[ "$libraries" == *libxkbcommon-x11.so* ]]; then
        return
    fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        # shellcheck disable=SC2086 (a list of words)
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            $DISPLAY_PACKAGES >/dev/null
    else
        echo "the viewer's tests need a virtual display; run apt-get install" $DISPLAY_PACKAGES >&2
        return 1
    fi
}

# $1: "run" for using milpath, "dev" for tests and checks as well
have_milpath() {
    [ -x "$BIN/python" ] || make_venv
    if [ "$1" = dev ]; then
        install_milpath dev -e ".[dev,napari]" -e "./plugins/napari-milpath[test]"
    else
        install_milpath run -e .
    fi
}
