#!/usr/bin/env bash
# Generates the Python stubs from the very files the server is built from, into the ignored folder
# `generated`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
proto=$here/../../proto
mkdir -p "$here/generated"
"${PYTHON:-python3}" -m grpc_tools.protoc \
  -I "$proto" \
  --python_out="$here/generated" \
  --grpc_python_out="$here/generated" \
  "$proto"/kernex/v1/*.proto
