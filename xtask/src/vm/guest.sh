# Runs in the virtual machine, on the host's files: every line of the plan is a test binary with its arguments.
exec </dev/null >/dev/ttyS1 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mkdir -p /lib/modules
mount -t tmpfs modules /lib/modules
ln -s "$(sed -n 's/.*opb\.modules=\([^ ]*\).*/\1/p' /proc/cmdline)" "/lib/modules/$(uname -r)"
# Its device node comes with it; all other modules are loaded when somebody asks for them.
modprobe tun
hostname opb-vm
echo "opb-vm: kernel $(uname -r)"
while read -r name command; do
    echo "opb-vm: begin $name"
    $command
    echo "opb-vm: end $name $?"
done </run/opb-vm/plan
echo "opb-vm: done"
reboot -f
