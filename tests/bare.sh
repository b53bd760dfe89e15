#!/usr/bin/env bash
# Run a command in this tree as somebody has it who has just fetched it:
#
#   tests/bare.sh here     KIND COMMAND   on this system
#   tests/bare.sh bookworm KIND COMMAND   on a bare Debian 12 (or another suite) with the packages
#                                         that the README names, and nothing else
# KIND is one of
#   root        root, with all that root may do
#   user        an ordinary user
#   container   root with the 14 capabilities that Docker leaves, and 64 MB of /dev/shm
#
# Needs root. Each run has a copy of the tree of its own, and a private /dev/shm; a suite's system
# is made once, in build/bare. Fetches packages, so that it takes a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 3 ]; then sed -n '2,14s/^# \?//p' "$0"; exit 2; fi
suite=$1 kind=$2
shift 2
[ "$(id -u)" = 0 ] || { echo "tests/bare.sh needs root" >&2; exit 2; }

certificates=/etc/ssl/certs/ca-certificates.crt
network=(SSL_CERT_FILE="$certificates" PIP_CERT="$certificates" NODE_EXTRA_CA_CERTS="$certificates")

packages="build-essential python3-dev python3-venv git"   # as in the README

install_debian() {
  local root=$1
  command -v debootstrap >/dev/null || {
    echo "tests/bare.sh needs debootstrap: apt install debootstrap" >&2; exit 2; }
  rm -rf "$root"
  debootstrap --variant=minbase "$suite" "$root" >"$root.log" 2>&1 || { tail -n 20 "$root.log"; exit 1; }
  cp -L /etc/resolv.conf "$root/etc/"
  # shellcheck disable=SC2086
  chroot "$root" sh -c 'export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq --no-install-recommends '"$packages" >>"$root.log" 2>&1 \
    || { tail -n 20 "$root.log"; exit 1; }
  # pip trusts whom this system trusts; a package has just written this file
  for file in /etc/pip.conf "$certificates"; do
    if [ -f "$file" ]; then cp -L "$file" "$root$file"; fi
  done
  touch "$root/made"
}

work=$(mktemp -d)
if [ "$suite" = here ]; then
  root=/ home=$work/home
else
  mkdir -p build/bare
  root=$PWD/build/bare/$suite home=/srv/$kind-$$
  [ -f "$root/made" ] || install_debian "$root"
fi

trap 'rm -rf "$work" "${root:?}/${home:?}"' EXIT

# The tree: what is, or would be, in the repository, and no environment or build of ours.
mkdir -p "$root/$home/tree"
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - --ignore-failed-read \
  | tar -x -C "$root/$home/tree"
chmod 755 "$work" "$root/$home"
shm=50% rights=()
case $kind in
  root) ;;
  user)
    rights=(setpriv --reuid 47110 --regid 47110 --clear-groups --inh-caps=-all --bounding-set=-all)
    chown -R 47110:47110 "$root/$home" ;;
  container)
    shm=64m
    kept=chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw
    kept=$kept,sys_chroot,mknod,audit_write,setfcap
    rights=(setpriv --inh-caps=-all "--bounding-set=-all,+${kept//,/,+}") ;;
  *) echo "no such kind: $kind" >&2; exit 2 ;;
esac

# Its own mounts, of which nothing is left afterwards.
export ROOT=$root TREE=$home/tree SHM=$shm
unshare --mount --propagation private bash -c '
  set -e
  if [ "$ROOT" != / ]; then
    mount --bind "$ROOT" "$ROOT"
    mount --rbind /dev "$ROOT/dev"
    mount -t proc none "$ROOT/proc"
  fi
  mount -t tmpfs -o "size=$SHM,mode=1777" none "$ROOT/dev/shm"
  exec chroot "$ROOT" bash -c "cd \"\$TREE\" && exec \"\$@\"" bash "$@"
' bash "${rights[@]}" env -i HOME="$home" LANG=C.UTF-8 "${network[@]}" \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
