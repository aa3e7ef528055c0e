# Sourced by scripts/demo and scripts/test: makes .venv in the checkout and installs the package with pinned versions.
# Plain pip: its own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, pip.conf, …) are honoured.

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$candidate"; return; }
    done
    echo "error: no Python 3.11 or newer found; set PYTHON to one" >&2
    return 2
}

# make_environment [EXTRAS]: quick when nothing has changed since the last time.
make_environment() {
    local extras="${1:-}" python stamp wanted
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || return 2
        echo "making .venv with $("$python" --version)"
        "$python" -m venv .venv || { echo "error: venv failed; on Debian install python3-venv" >&2; return 2; }
    fi
    stamp=".venv/.svd_batch${extras:+-$extras}"
    wanted=$(cat pyproject.toml constraints.txt svd_batch/__init__.py | cksum)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return 0
    echo "installing svd_batch${extras:+ with extras $extras} into .venv; PyTorch is large, the first time takes minutes"
    # --no-compile: of tens of thousands of modules a few are ever imported, and those are compiled then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt \
        -e ".${extras:+[$extras]}" || return 2
    # but what Ray's processes import, for they must all have started within half a minute
    .venv/bin/python - <<'PYTHON' || return 2
import compileall, importlib.util, re
for name in ("ray", "aiohttp", "grpc", "opentelemetry"):
    spec = importlib.util.find_spec(name)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        compileall.compile_dir(folder, quiet=2, workers=0, rx=re.compile("/(rllib|train|tune|serve|llm)/"))
PYTHON
    echo "$wanted" > "$stamp"
}
