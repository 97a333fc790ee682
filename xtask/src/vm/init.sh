#!/bin/busybox sh
# First program in the virtual machine: makes the host's files its root, read-only below a layer of memory, so that
# every program and test of the host runs here as it is, on another kernel.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do $b insmod "$module" || $b echo "opb-vm: no $module"; done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /host
$b mount -t tmpfs layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root
$b mount -t tmpfs run /root/run
$b cp -r /opb-vm /root/run/
$b mount --move /dev /root/dev
$b umount /proc
exec $b switch_root /root /bin/sh /run/opb-vm/guest.sh
