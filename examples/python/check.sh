#!/usr/bin/env bash
# Runs both examples against a real server: proof that the contract does not depend on the language.
#   PYTHON=.venv/bin/python examples/python/check.sh [path of kernex-server]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
server=${1:-$here/../../target/debug/kernex-server}
python=${PYTHON:-python3}
work=$(mktemp -d)
server_id='' agent_id=''

finish() {
  local code=$?
  [ -z "$agent_id" ] || kill "$agent_id" 2>/dev/null || true
  if [ -n "$server_id" ]; then
    kill "$server_id" 2>/dev/null || true
    wait "$server_id" || code=$?
  fi
  if [ "$code" -ne 0 ]; then
    echo "--- the server said ---" >&2
    cat "$work/server.log" >&2 || true
    echo "--- the agent said ---" >&2
    cat "$work/agent.log" >&2 || true
  fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

PYTHON=$python "$here/generate.sh"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" serve --data-dir "$work/data" --listen "127.0.0.1:$port" --min-protocol 2 >"$work/server.log" 2>&1 &
server_id=$!

operator() {
  "$python" "$here/kernex_operator.py" --server "127.0.0.1:$port" --ca "$work/data/ca.pem" \
    --token-file "$work/data/admin.token" "$@"
}
eventually() { # what, command...
  local what=$1 try
  shift
  for try in $(seq 100); do
    if "$@" >"$work/last" 2>&1; then return 0; fi
    kill -0 "$server_id" || { echo "the server ended" >&2; return 1; }
    sleep 0.2
  done
  echo "waited for: $what; last: $(cat "$work/last")" >&2
  return 1
}
listed() { operator devices | grep -qx "$1"; }

eventually "the server to answer" operator devices
(umask 077 && operator enrollment-token >"$work/token")
"$python" "$here/kernex_agent.py" --server "127.0.0.1:$port" --ca "$work/data/ca.pem" --token-file "$work/token" \
  --name python-1 --deployments 1 >"$work/agent.log" 2>&1 &
agent_id=$!
eventually "the agent to be online" listed "python-1 online -"

mkdir "$work/app"
echo '{"name": "app", "version": "1.0"}' >"$work/app/manifest.json"
tar czf "$work/app.tar.gz" -C "$work/app" manifest.json
[ "$(operator push "$work/app.tar.gz")" = app:1.0 ]
operator deploy app:1.0 python-1
wait "$agent_id" || { agent_id=''; echo "the agent did not leave well" >&2; exit 1; }
agent_id=''
grep -qx "outcome DISPOSITION_APPLIED" "$work/agent.log"
eventually "the release to be known" listed "python-1 offline app:1.0"
echo "python examples: ok"
