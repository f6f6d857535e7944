#!/usr/bin/env bash
# Builds each client as its users do, and has it list the devices of a real server and refuse
# another one.
#   PYTHON=.venv/bin/python clients/check.sh [folder of kernex-server and kernexctl]
# Needs what .ci/run installs: examples/python/requirements.txt, npm, Go and protoc with its plugins
# for Go.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "${1:-$here/../target/debug}" && pwd)
python=${PYTHON:-python3}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kernex-ci/node-client
work=$(mktemp -d)
server_id='' enrolling=()

finish() {
  local code=$?
  if [ -n "$server_id" ]; then
    kill "$server_id" 2>/dev/null || true
    wait "$server_id" || code=$?
  fi
  [ "$code" -eq 0 ] || { echo "--- the server said ---" && cat "$work/server.log"; } >&2 || true
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
KERNEX_METRICS_LISTEN='' "$programs/kernex-server" serve --data-dir "$work/data" --listen "127.0.0.1:$port" \
  >"$work/server.log" 2>&1 &
server_id=$!
export KERNEXCTL_CONFIG=$work/kernexctl.toml
for _ in $(seq 300); do
  grep -q '^Next:' "$work/server.log" && break
  kill -0 "$server_id" || { echo "the server ended" >&2; exit 1; }
  sleep 0.2
done
ctl() { "$programs/kernexctl" "$@"; }
ctl context add check --server "https://localhost:$port" --ca "$work/data/ca.pem" \
  --token-file "$work/data/admin.token" 2>/dev/null
ctl context export --file "$work/kernex.json"
[ "$(stat -c %a "$work/kernex.json")" = 600 ]
# Another control plane at the same address: the last digit of the pin is another one.
"$python" - "$work" <<'PYTHON'
import json, pathlib, sys
work = pathlib.Path(sys.argv[1])
context = json.loads((work / "kernex.json").read_text())
pin = context["pin"]
context["pin"] = pin[:-1] + ("0" if pin[-1] != "0" else "1")
(work / "other.json").write_text(json.dumps(context))
PYTHON
# Enrolled is enough: they are listed as offline.
token=$(ctl enrollment create --uses 2 -o name)
for name in edge-1 edge-2; do
  "$programs/kernex-agent" enroll --server "https://localhost:$port" --token-file - --name "$name" \
    --state-dir "$work/$name" <<<"$token" >"$work/$name.log" 2>&1 &
  enrolling+=($!)
done
for id in "${enrolling[@]}"; do wait "$id" || { cat "$work"/edge-*.log >&2; exit 1; }; done
expected=$'edge-1 offline\nedge-2 offline'

check() { # name, command of a client without its context file
  local name=$1 listed
  shift
  listed=$("$@" "$work/kernex.json" | sort)
  [ "$listed" = "$expected" ] || { echo "$name lists: $listed" >&2; return 1; }
  if "$@" "$work/other.json" >"$work/refused" 2>&1; then
    echo "$name talks to a control plane with another pin" >&2
    return 1
  fi
  grep -q 'another control plane' "$work/refused" || { cat "$work/refused" >&2; return 1; }
  echo "$name: ok"
}

# What is built goes to the temporary folder; the tools write beside their sources, so those are
# copied.
mkdir "$work/tree"
cp -r "$here/../proto" "$work/tree/proto"
cp -r "$here" "$work/tree/clients"

python_client() {
  # With the tools that the package names, and with nothing else than it asks for.
  "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$work" "$work/tree/clients/python"
  "$python" -m pip install --quiet --disable-pip-version-check --target "$work/site" "$work"/kernex_client-*.whl
  export PYTHONPATH=$work/site
  check "the Python wheel" "$python" "$here/python/devices.py"
  # A page at a time: the second one has to be asked for.
  "$python" - "$work/kernex.json" <<'PYTHON'
import sys, kernex
from kernex.v1 import device_pb2, device_pb2_grpc
with kernex.connect(sys.argv[1]) as channel:
    call = device_pb2_grpc.DeviceServiceStub(channel).ListDevices
    names = [[device.name for device in page.devices]
             for page in kernex.pages(call, device_pb2.ListDevicesRequest(page_size=1))]
assert sorted(sum(names, [])) == ["edge-1", "edge-2"] and max(map(len, names)) == 1, names
PYTHON
}

node_client() {
  (cd "$work/tree/clients/node" && npm pack --silent --pack-destination "$work" >/dev/null)
  mkdir -p "$cache"
  # The cache keeps what the package needs; the package itself is new each time.
  rm -rf "$cache/node_modules/kernex-client" "$cache/node_modules/.package-lock.json"
  npm install --prefix "$cache" --no-save --no-package-lock --no-audit --no-fund --prefer-offline --loglevel=error \
    "$work"/kernex-client-*.tgz >&2
  cp "$here/node/devices.js" "$cache/devices.mjs"
  check "the npm package" node "$cache/devices.mjs"
  cat >"$cache/pages.mjs" <<'NODE'
import assert from 'node:assert';
import { connect, pages } from 'kernex-client';
const kernex = await connect(process.argv[2]);
const names = [];
for await (const page of pages(kernex.DeviceService.listDevices, { pageSize: 1 })) {
  assert(page.devices.length <= 1);
  names.push(...page.devices.map((device) => device.name));
}
assert.deepStrictEqual(names.sort(), ['edge-1', 'edge-2']);
await assert.rejects(kernex.DeviceService.getDevice({ device: 'nobody' }), /NOT_FOUND/);
kernex.close();
NODE
  node "$cache/pages.mjs" "$work/kernex.json"
}

go_client() {
  local gopath=$work/gopath
  mkdir -p "$gopath/src"
  cp -r "$here/go/kernex" "$here/go/devices" "$gopath/src"
  protoc -I "$here/../proto" --go_out="$gopath/src" --go-grpc_out="$gopath/src" "$here"/../proto/kernex/v1/*.proto
  GO111MODULE=off GOFLAGS= GOPATH="$gopath:/usr/share/gocode" go vet kernex devices
  GO111MODULE=off GOFLAGS= GOPATH="$gopath:/usr/share/gocode" go build -o "$work/devices" devices
  check "the Go client" "$work/devices"
}

python_client
node_client
go_client
