#!/bin/sh
# Runs on the device, in the folder of the new release, while `current` still points to the previous
# one. Everything printed here comes back with the outcome; a non-zero exit keeps the previous
# release.
set -eu

echo "$GREETING from $(uname -n), running $(uname -s) on $(uname -m)."

# What has to outlive a release belongs into the state folder.
state="${KERNEX_STATE_DIR:-.}"
count=$(cat "$state/greetings" 2>/dev/null || echo 0)
count=$((count + 1))
echo "$count" > "$state/greetings"
echo "This device has been greeted $count time(s)."
