#!/bin/sh
# After an installation or an upgrade, of a deb as of an rpm. Starting it the first time is left to
# whoever installs it: they may want to set its public name before it makes its certificate.
set -e
systemd-sysusers kernex-server.conf
systemd-tmpfiles --create kernex-server.conf
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl try-restart kernex-server.service
fi
