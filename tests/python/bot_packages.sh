#!/usr/bin/env bash
# Twilio's libraries from PyPI and npm, for examples/twilio_bot.py and .mjs, in a folder of
# the tests' own: target/bot-packages. Nothing is done when these versions are there.
#
#   PYTHONPATH=target/bot-packages/python /usr/bin/python3 examples/twilio_bot.py …
#   cp examples/twilio_bot.mjs target/bot-packages/ && node target/bot-packages/twilio_bot.mjs …
#
# Node finds packages of an import beside the file, or above it: hence the copy.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python_packages=(twilio==9.13.0 flask==3.1.3)
node_packages=(twilio@5.8.2 express@5.1.0)
folder=target/bot-packages
wanted="${python_packages[*]} ${node_packages[*]}"

[ "$(cat "$folder/versions" 2> /dev/null)" != "$wanted" ] || exit 0
rm -rf "$folder"
mkdir -p "$folder"
PIP_ROOT_USER_ACTION=ignore /usr/bin/python3 -m pip install --quiet --target "$folder/python" "${python_packages[@]}"
echo '{ "private": true }' > "$folder/package.json"
npm install --prefix "$folder" --no-save --no-fund --no-audit --ignore-scripts --loglevel error "${node_packages[@]}"
echo "$wanted" > "$folder/versions"
