"""One cluster's share of 127.0.0.0/8, so that clusters run side by side.

    127.<1+s>.0.1         the control plane, on ports found free
    127.<1+s>.<1+n>.0/24  node n: its own address is .1, its pods have the rest
    127.<128+s>.0.0/16    Services

The share `s` is claimed by binding a UDP socket to the control plane's address. Unlike a lock file, that is known to
everyone on the machine, exactly as far as the addresses reach (a network namespace), and the kernel frees it.
"""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

SHARES = 64
NODES = 250
CLAIM_PORT = 28127  # UDP; nothing is ever sent to it


class NoAddressesLeft(RuntimeError):
    pass


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    address: IPv4Address
    pods: IPv4Network


@dataclass(frozen=True, slots=True)
class Share:
    """Claimed until `claim` is closed, here and in every process that it was handed to."""

    number: int
    claim: socket.socket

    @property
    def control_plane(self) -> IPv4Address:
        return _control_plane(self.number)

    @property
    def services(self) -> IPv4Network:
        return IPv4Network(f"127.{128 + self.number}.0.0/16")

    def node(self, index: int) -> NodeAddresses:
        if not 0 <= index < NODES:
            raise NoAddressesLeft(f"a local cluster has room for {NODES} nodes; node {index + 1} was asked for")
        pods = IPv4Network(f"127.{1 + self.number}.{1 + index}.0/24")
        return NodeAddresses(pods[1], pods)

    def free_ports(self, count: int) -> list[int]:
        """TCP ports nobody listens on. Ours alone: no one else uses the address; a listener on every address could."""
        sockets = [socket.socket() for _ in range(count)]
        try:
            for each in sockets:
                each.bind((str(self.control_plane), 0))
            return [each.getsockname()[1] for each in sockets]
        finally:
            for each in sockets:
                each.close()


def claim_share() -> Share:
    """The first free share. Raises NoAddressesLeft."""
    for number in range(SHARES):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((str(_control_plane(number)), CLAIM_PORT))
        except OSError:
            claim.close()
            continue
        return Share(number, claim)
    raise NoAddressesLeft(
        f"all {SHARES} address shares are taken (or UDP port {CLAIM_PORT} is, on every address); "
        "stop a local cluster: python -m cluster down"
    )


def _control_plane(number: int) -> IPv4Address:
    return IPv4Address(f"127.{1 + number}.0.1")
