#!/bin/sh
# Makes the whole root file system of an image: one program, the libraries it names, a user. No
# shell, no package manager.
#   deploy/oci/rootfs.sh PROGRAM FOLDER
set -eu
program=$1 root=$2
name=$(basename "$program")
mkdir -p "$root/usr/bin" "$root/etc" "$root/data" "$root/tmp"
cp "$program" "$root/usr/bin/$name"
# Nothing is listed for a static program.
ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
echo 'kernex:x:65532:65532:Kernex:/data:/sbin/nologin' >"$root/etc/passwd"
echo 'kernex:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"
chmod 700 "$root/data"
chown 65532:65532 "$root/data"
