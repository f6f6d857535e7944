#!/bin/sh
# After an installation or an upgrade, of a deb as of an rpm. It is started once it is enrolled.
set -e
systemd-tmpfiles --create kernex-agent.conf
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  # A script of a bundle that upgrades the agent it runs in restarts it by itself, when it has
  # nothing left to do.
  [ -n "${KERNEX_AGENT_PID:-}" ] || systemctl try-restart kernex-agent.service
fi
