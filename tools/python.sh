# Finds a Python to start with, or installs Debian's: the part of the set-up that has to run before there is a Python.
# Sourced by tests/run and examples/run; `find_python "$@"` sets `python`.

# Whether a command is a Python of at least 3.10.
is_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

# The argument of --python, if there is one.
wanted_python() {
    while [ $# -gt 0 ]; do
        case $1 in
        --) return ;;
        --python) printf '%s' "${2-}" && return ;;
        --python=*) printf '%s' "${1#--python=}" && return ;;
        esac
        shift
    done
}

# The first of the usual commands that is new enough, and Debian's own where the PATH leads to an older one.
search_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python3.14 /usr/bin/python3; do
        if command -v "$candidate" >/dev/null && is_python "$candidate"; then
            python=$candidate
            return
        fi
    done
    return 1
}

install_python() {
    local packages='python3 python3-venv python3-dev' as_root=''
    if [ "$(id -u)" != 0 ]; then
        as_root='sudo -n'
    fi
    if command -v apt-get >/dev/null && { [ -z "$as_root" ] || $as_root true 2>/dev/null; }; then
        echo "== No Python 3.10 or newer: installing the Debian packages $packages"
        # The words of the two variables are meant to be split.
        # shellcheck disable=SC2086
        $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends $packages >/dev/null && return
    fi
    echo "error: Python 3.10 or newer is needed. On Debian 12 or Ubuntu 22.04 and newer run, as root:" >&2
    echo "    apt-get install $packages" >&2
    return 1
}

find_python() {
    python=$(wanted_python "$@")
    if [ -n "$python" ]; then
        if ! is_python "$python"; then
            echo "error: $python is no Python of 3.10 or newer" >&2
            exit 1
        fi
        return
    fi
    search_python && return
    install_python || exit 1
    hash -r
    if ! search_python; then
        echo "error: the Python that was installed is older than 3.10; pass another with --python PATH" >&2
        exit 1
    fi
}
