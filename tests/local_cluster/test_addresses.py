"""Clusters that run side by side share no address."""

from itertools import combinations

import pytest
from cluster.addresses import SHARES, NoAddressesLeft, Share, claim_share


def test_two_claims_differ_until_one_is_given_back() -> None:
    first, second = claim_share(), claim_share()
    assert first.number != second.number
    first.claim.close()
    third = claim_share()
    assert third.number == first.number
    for each in (second, third):
        each.claim.close()


def test_shares_do_not_overlap_and_leave_127_0_alone() -> None:
    with claim_share().claim as claim:
        shares = [Share(number, claim) for number in range(SHARES)]
        networks = [
            network for share in shares for network in (share.services, share.node(0).pods.supernet(new_prefix=16))
        ]
        assert not [pair for pair in combinations(networks, 2) if pair[0].overlaps(pair[1])]
        assert all(network.is_loopback and not str(network).startswith("127.0.") for network in networks)


def test_nodes_have_networks_of_their_own_and_their_first_address() -> None:
    with claim_share().claim as claim:
        share = Share(3, claim)
        assert str(share.control_plane) == "127.4.0.1"
        assert [(str(node.address), str(node.pods)) for node in (share.node(0), share.node(1))] == [
            ("127.4.1.1", "127.4.1.0/24"),
            ("127.4.2.1", "127.4.2.0/24"),
        ]
        with pytest.raises(NoAddressesLeft, match="250 nodes; node 251"):
            share.node(250)


def test_free_ports_are_distinct() -> None:
    with claim_share().claim as claim:
        assert len(set(Share(0, claim).free_ports(20))) == 20
