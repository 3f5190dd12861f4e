"""Run a command on a machine without a network: `python offline.py command ...`.

Where the system allows it (Linux, root or user namespaces) the command gets a network of its own, loopback and no more;
elsewhere uv is told to stay offline and every proxy points to a port where nobody listens.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1
DEAD = "http://127.0.0.1:9"


def isolated() -> bool:
    """Move this process into a network of its own, with loopback up; say whether the system allowed it."""
    if not sys.platform.startswith("linux"):
        return False
    c = ctypes.CDLL(None, use_errno=True)
    if c.unshare(NEW_NETWORK) and c.unshare(NEW_USER | NEW_NETWORK):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", flags | UP))
    return True


def main() -> None:
    """Become the command."""
    isolated()
    proxies = {name: DEAD for proxy in ("http_proxy", "https_proxy", "all_proxy") for name in (proxy, proxy.upper())}
    local = {"no_proxy": "localhost,127.0.0.1", "NO_PROXY": "localhost,127.0.0.1"}
    os.execvpe(sys.argv[1], sys.argv[1:], {**os.environ, **proxies, **local, "UV_OFFLINE": "1"})


if __name__ == "__main__":
    main()
