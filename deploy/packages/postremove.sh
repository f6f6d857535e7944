#!/bin/sh
# After it is removed. What it kept in /var/lib stays: keys, the journal and what runs there cannot
# be had again.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
