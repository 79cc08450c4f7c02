"""The map key and those that follow it, as an agent takes them up."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import msgspec
import pytest
from cairn_agent.netmap.held import MapKeys, NetmapCopy, NetmapRefused, dump, load
from cairn_agent.protocol import netmap as wire
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.unit.agent.fakes.netmaps import Cluster, member, node_id

CA = "a certificate"


class Successor(Cluster):
    """The same cluster with another map key."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self.map_key = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()


FIRST, SECOND, THIRD = Cluster(), Successor(2), Successor(3)


def names(old: Cluster, new: Cluster, signer: Cluster | None = None) -> wire.Succession:
    octets = wire.succession_octets(old.id, old.map_key, new.map_key)
    signature = base64.b64encode((signer or old)._key.sign(octets)).decode()
    return wire.Succession(old.map_key, new.map_key, signature)


CHAIN = [names(FIRST, SECOND), names(SECOND, THIRD)]


def trust(
    signer: Cluster,
    revision: int,
    successions: Iterable[wire.Succession] = (),
    following: str = "",
) -> bytes:
    document = wire.TrustDocument([CA], "ab", signer.map_key, following)
    signature = signer.sign("trust", signer.id, revision, wire.trust_digest(document))
    return wire.encode(wire.TrustUpdate(list(successions), document, revision, signature))


def copy_with(**known: object) -> NetmapCopy:
    keys = {"map_key": FIRST.map_key, **known}
    return NetmapCopy(cluster_id=FIRST.id, node_id=node_id(1), **keys)  # type: ignore[arg-type]


def apply_all(copy: NetmapCopy, lines: Iterable[bytes]) -> None:
    for line in lines:
        copy.apply(wire.decode_received(line))


def signed_by(cluster: Cluster, revision: int) -> list[bytes]:
    return [
        cluster.node(1, [7], revision),
        cluster.vsubnet([member(2)], revision),
        cluster.in_sync(revision),
    ]


def test_a_key_that_was_announced_signs_and_the_one_before_is_believed_no_more() -> None:
    copy = copy_with()
    apply_all(copy, [FIRST.reset(), *signed_by(FIRST, 5)])
    apply_all(copy, [trust(FIRST, 6, CHAIN[:1], SECOND.map_key), FIRST.in_sync(6)])
    assert copy.map_keys == MapKeys(FIRST.map_key, (SECOND.map_key,))
    assert copy.trust is not None
    assert copy.trust.document.next_map_key == SECOND.map_key
    apply_all(copy, signed_by(FIRST, 7))  # it goes on signing until the other one does

    apply_all(copy, [trust(SECOND, 8, CHAIN[:1]), *signed_by(SECOND, 8)])
    assert copy.map_keys == MapKeys(SECOND.map_key, (), (FIRST.map_key,))
    with pytest.raises(NetmapRefused, match="map key that was replaced"):
        apply_all(copy, signed_by(FIRST, 9))
    assert copy.position() == (1, 8)


def test_who_was_away_for_several_keys_finds_the_way_along_the_chain() -> None:
    copy = copy_with()
    apply_all(copy, [FIRST.reset(), *signed_by(FIRST, 5)])
    copy.stream_ended()
    apply_all(copy, [trust(THIRD, 90, CHAIN), *signed_by(THIRD, 99)])
    assert copy.position() == (1, 99)
    assert copy.map_keys == MapKeys(THIRD.map_key, (), (FIRST.map_key, SECOND.map_key))


def test_a_key_that_was_announced_and_then_lost_does_not_stand_in_the_way_of_another() -> None:
    """The cluster was restored to before it was announced, and made another one."""
    copy = copy_with()
    apply_all(copy, [FIRST.reset(), trust(FIRST, 6, CHAIN[:1], SECOND.map_key)])
    copy.stream_ended()
    other = names(FIRST, THIRD)
    apply_all(copy, [FIRST.reset(), trust(FIRST, 6, [other], THIRD.map_key)])
    apply_all(copy, [trust(THIRD, 7, [other]), *signed_by(THIRD, 7)])
    assert copy.map_keys == MapKeys(THIRD.map_key, (), (FIRST.map_key, SECOND.map_key))


def test_without_the_chain_a_new_key_is_nobodys() -> None:
    copy = copy_with()
    with pytest.raises(NetmapRefused, match="isn't signed by the cluster's map key"):
        apply_all(copy, [FIRST.reset(), trust(THIRD, 9, CHAIN[1:])])


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(names(FIRST, SECOND, signer=SECOND), id="signed by the new one"),
        pytest.param(msgspec.structs.replace(CHAIN[0], signature="AAAA"), id="no signature"),
        pytest.param(msgspec.structs.replace(CHAIN[0], new=THIRD.map_key), id="for another"),
    ],
)
def test_a_succession_that_the_old_key_has_not_signed_is_refused(forged: wire.Succession) -> None:
    copy = copy_with()
    with pytest.raises(NetmapRefused):
        apply_all(copy, [FIRST.reset(), trust(SECOND, 9, [forged])])
    assert copy.map_keys == MapKeys(FIRST.map_key)


def test_a_succession_of_another_cluster_is_refused() -> None:
    octets = wire.succession_octets("another", FIRST.map_key, SECOND.map_key)
    signature = base64.b64encode(FIRST._key.sign(octets)).decode()
    foreign = wire.Succession(FIRST.map_key, SECOND.map_key, signature)
    copy = copy_with()
    with pytest.raises(NetmapRefused):
        apply_all(copy, [FIRST.reset(), trust(SECOND, 9, [foreign])])


def test_whom_to_trust_must_be_said_by_the_key_that_it_names() -> None:
    document = wire.TrustDocument([CA], "ab", SECOND.map_key)
    signature = FIRST.sign("trust", FIRST.id, 9, wire.trust_digest(document))
    copy = copy_with()
    with pytest.raises(NetmapRefused, match="map key that it names"):
        apply_all(
            copy,
            [FIRST.reset(), wire.encode(wire.TrustUpdate(CHAIN[:1], document, 9, signature))],
        )
    assert copy.trust is None


def test_older_trust_does_not_replace_newer() -> None:
    copy = copy_with()
    apply_all(copy, [FIRST.reset(), trust(FIRST, 9, CHAIN[:1], SECOND.map_key)])
    with pytest.raises(NetmapRefused, match="older than 9"):
        apply_all(copy, [trust(FIRST, 8)])


def test_a_netmap_kept_under_a_former_key_is_good_on_this_disk_and_nowhere_else() -> None:
    """Killed between two writes, an agent must not lose its netmap (promise 1)."""
    before = copy_with()
    apply_all(before, [FIRST.reset(), *signed_by(FIRST, 5)])
    assert before.current is not None
    kept = dump(before.current)

    copy = copy_with(map_key=SECOND.map_key, former_map_keys=[FIRST.map_key])
    assert load(copy, kept).revision == 5
    assert copy.map_keys == MapKeys(SECOND.map_key, (), (FIRST.map_key,))
    copy = copy_with(map_key=SECOND.map_key, former_map_keys=[FIRST.map_key])
    with pytest.raises(NetmapRefused, match="map key that was replaced"):
        apply_all(copy, kept.splitlines())


def test_a_netmap_kept_under_the_next_key_is_good_for_an_identity_of_before() -> None:
    before = copy_with(next_map_keys=[SECOND.map_key])
    apply_all(before, [SECOND.reset(), *signed_by(SECOND, 5)])
    assert before.current is not None
    copy = copy_with(next_map_keys=[SECOND.map_key])
    assert load(copy, dump(before.current)).revision == 5
    assert copy.map_keys.current == SECOND.map_key


def test_an_agent_of_before_passes_over_what_it_does_not_know() -> None:
    line = trust(FIRST, 9).replace(b'"type":"trust"', b'"type":"of the future"')
    copy = copy_with()
    apply_all(copy, [FIRST.reset(), line, *signed_by(FIRST, 9)])
    assert copy.position() == (1, 9)
