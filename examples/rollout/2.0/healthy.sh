#!/bin/sh
# 2.0 wants a seat of a licence server, and there is only one: the first device has it, all others
# are refused.
ln -s "$KERNEX_DEVICE_NAME" "$KERNEX_CONFIG_SEAT" 2>/dev/null
owner=$(readlink "$KERNEX_CONFIG_SEAT")
test "$owner" = "$KERNEX_DEVICE_NAME" || { echo "no seat is free, $owner has the last one"; exit 1; }
