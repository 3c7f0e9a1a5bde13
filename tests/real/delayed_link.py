#!/usr/bin/env python3
"""Runs a command at one end of a network link that delays every packet.

    unshare -rn python3 tests/real/delayed_link.py MILLISECONDS COMMAND [ARGUMENT ...]

Two network namespaces, 10.77.0.1 (near, where the command runs) and 10.77.0.2
(far), joined by a pair of tun devices; this process carries the packets across
and holds each back for so long. The delay lies below TCP, so Nagle's algorithm
and delayed acknowledgements behave as on a real line, which a delaying proxy
would hide. To run something at the far end: nsenter --net -t $FAR_PID COMMAND.

Needs /dev/net/tun and the right to make namespaces (root, or `unshare -r`).
"""

import collections
import ctypes
import fcntl
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
CLONE_NEWNET = 0x40000000
NEAR, FAR = "10.77.0.1", "10.77.0.2"


def open_end(address, peer):
    """Makes the tun device of one end, in the namespace of the caller."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"link0", IFF_TUN_NO_PI))
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", address, "peer", peer, "dev", "link0"],
        ["ip", "link", "set", "link0", "up"],
    ):
        subprocess.run(command, check=True)
    return fd


def far_end(channel):
    """The far namespace: makes its device, hands it over, and stays."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    socket.send_fds(channel, [b"x"], [open_end(FAR, NEAR)])
    signal.pause()


def carry(near, far, delay, child):
    """Carries packets both ways until the child ends; returns its exit code."""
    selector = selectors.DefaultSelector()
    selector.register(near, selectors.EVENT_READ, far)
    selector.register(far, selectors.EVENT_READ, near)
    # (when to deliver, to which end, packet); the delay is constant, so in order.
    waiting = collections.deque()
    while child.poll() is None:
        pause = waiting[0][0] - time.monotonic() if waiting else 0.05
        for key, _ in selector.select(max(0.0, min(pause, 0.05))):
            try:
                while True:
                    packet = os.read(key.fd, 65536)
                    waiting.append((time.monotonic() + delay, key.data, packet))
            except BlockingIOError:
                pass
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, packet = waiting.popleft()
            try:
                os.write(end, packet)
            except BlockingIOError:
                pass  # a full device drops, as a line does
    return child.returncode


def main():
    delay, command = float(sys.argv[1]) / 1000, sys.argv[2:]
    near = open_end(NEAR, FAR)
    ours, theirs = socket.socketpair()
    far_pid = os.fork()
    if far_pid == 0:
        ours.close()
        far_end(theirs)
    try:
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        child = subprocess.Popen(command, env={**os.environ, "FAR_PID": str(far_pid)})
        code = carry(near, fds[0], delay, child)
    finally:
        os.kill(far_pid, signal.SIGKILL)
        os.waitpid(far_pid, 0)
    sys.exit(code if code >= 0 else 1)


if __name__ == "__main__":
    main()
