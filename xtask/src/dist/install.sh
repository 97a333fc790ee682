# Installs, upgrades, removes and purges the package on a copy of this machine's files, in namespaces of its own: called
# by `unshare` with the package and an empty directory. There is no service manager; the daemon is started as its unit
# starts it: as user opb, with three capabilities, and with nothing below /sys/fs/bpf but its own directory.
set -eu
package=$1 root=$2/root
mount -t tmpfs layer "$2"
mkdir "$2/upper" "$2/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$2/upper,workdir=$2/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount -t bpf -o mode=0700 bpf "$root/sys/fs/bpf"
mount -t tmpfs run "$root/run"
mount -t tmpfs tmp "$root/tmp"
mount --rbind /dev "$root/dev"
cp "$package" "$root/tmp/opb.deb"
ip link set lo up
ip link add sub0 type veth peer name peer0
ip link set sub0 up

cat >"$root/tmp/steps.sh" <<'STEPS'
set -eu
fail() { echo "opb: FAILED: $*" >&2; exit 1; }
attached() { bpftool net list | grep -q '^sub0('; }
links=/sys/fs/bpf/opb/v1/links
capabilities=-all,+bpf,+net_admin,+perfmon

start() {
    systemd-tmpfiles --create /usr/lib/tmpfiles.d/opb.conf
    # What StateDirectory= and RuntimeDirectory= do.
    install -d -o opb -g opb -m 0700 /var/lib/opb
    install -d -o opb -g opb -m 0750 /run/opb
    # What TemporaryFileSystem= and BindPaths= do.
    unshare -m sh -ec '
        mkdir -p /tmp/pins
        mount --bind /sys/fs/bpf/opb /tmp/pins
        mount -t tmpfs -o mode=0755 empty /sys/fs/bpf
        mkdir /sys/fs/bpf/opb
        mount --move /tmp/pins /sys/fs/bpf/opb
        mount -o remount,ro /sys/fs/bpf
        exec setpriv --reuid opb --regid opb --clear-groups --no-new-privs --bounding-set "$1" \
            --inh-caps "$1" --ambient-caps "$1" opb run' sh $capabilities &
    daemon=$!
    for _ in $(seq 120); do
        opb status >/dev/null 2>&1 && return
        sleep 0.5
    done
    fail "the daemon does not enforce"
}

dpkg --install /tmp/opb.deb
sed -i 's/"ppp\*"/sub0/' /etc/opb/opb.yaml
sed -i 's/action: monitor/action: drop/' /etc/opb/policy.yaml
opb check /etc/opb/opb.yaml
attached && fail "the package has started something"
start
attached || fail "nothing is attached"
[ "$(stat --format %U /run/opb/opb.sock)" = opb ] || fail "the socket is not that of user opb"
opb doctor
kill -9 $daemon
wait $daemon || true
attached || fail "nothing is attached after SIGKILL"
start
kill $daemon
wait $daemon
dpkg --install /tmp/opb.deb
grep -q sub0 /etc/opb/opb.yaml || fail "an upgrade has replaced the node file"
attached || fail "an upgrade has ended filtering"
dpkg --remove opb
[ ! -e /usr/bin/opb ] || fail "the program is left"
attached && [ -e $links ] || fail "a removal has ended filtering"
dpkg --purge opb
attached && fail "a purge has not ended filtering"
for path in /sys/fs/bpf/opb /etc/opb /var/lib/opb /var/lib/opb-removed /var/log/opb /run/opb; do
    [ ! -e $path ] || fail "$path is left after a purge"
done
! getent passwd opb || fail "the user is left after a purge"
! getent group opb || fail "the group is left after a purge"
STEPS
exec chroot "$root" sh /tmp/steps.sh
