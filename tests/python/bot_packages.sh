#!/usr/bin/env bash
# What bots for Twilio are made of, from PyPI and npm, in a folder of the tests' own:
# target/bot-packages. Nothing is done when these versions are there.
#
# Twilio's libraries, for examples/twilio_bot.py and .mjs:
#   PYTHONPATH=target/bot-packages/python /usr/bin/python3 examples/twilio_bot.py …
#   cp examples/twilio_bot.mjs target/bot-packages/ && node target/bot-packages/twilio_bot.mjs …
# Pipecat, for tests/python/pipecat_hang_up.py:
#   PYTHONPATH=target/bot-packages/pipecat /usr/bin/python3 tests/python/pipecat_hang_up.py …
#
# Node finds packages of an import beside the file, or above it: hence the copy.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python_packages=(twilio==9.13.0 flask==3.1.3)
node_packages=(twilio@5.8.2 express@5.1.0)
# Pipecat without what it needs for models and speech, which has hundreds of MB; and what its
# serializer for Twilio imports.
pipecat=pipecat-ai==1.14.0
pipecat_imports=(
    aiofiles==25.1.0 aiohttp==3.14.5 docstring_parser==0.18.0 loguru==0.7.3 loudness==0.2.0 numpy==2.4.6
    pillow==13.0.0 pydantic==2.14.4 sentencex==1.0.32 soxr==1.1.0 wait_for2==0.4.1 websockets==17.4
)
folder=target/bot-packages

pip_install() {
    PIP_ROOT_USER_ACTION=ignore /usr/bin/python3 -m pip install -qq --target "$@"
}

twilio_libraries() {
    local wanted="${python_packages[*]} ${node_packages[*]}"
    [ "$(cat "$folder/versions" 2> /dev/null)" != "$wanted" ] || return 0
    rm -rf "$folder"
    mkdir -p "$folder"
    pip_install "$folder/python" "${python_packages[@]}"
    echo '{ "private": true }' > "$folder/package.json"
    npm install --prefix "$folder" --no-save --no-fund --no-audit --ignore-scripts --loglevel error "${node_packages[@]}"
    echo "$wanted" > "$folder/versions"
}

pipecat_alone() {
    local wanted="$pipecat ${pipecat_imports[*]}"
    [ "$(cat "$folder/pipecat/versions" 2> /dev/null)" != "$wanted" ] || return 0
    rm -rf "$folder/pipecat"
    pip_install "$folder/pipecat" --no-deps "$pipecat"
    pip_install "$folder/pipecat" "${pipecat_imports[@]}"
    echo "$wanted" > "$folder/pipecat/versions"
}

twilio_libraries
pipecat_alone
