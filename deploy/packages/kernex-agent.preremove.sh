#!/bin/sh
# Before it is removed; an upgrade removes as well, and restarts the service afterwards.
set -e
case "${1:-}" in
  remove | 0)
    if [ -d /run/systemd/system ]; then
      systemctl disable --now kernex-agent.service
    fi
    ;;
esac
