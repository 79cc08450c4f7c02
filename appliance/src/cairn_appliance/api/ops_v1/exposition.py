"""What `/metrics` says: gathered for each scrape, in a registry of its own.

Cardinality is bounded whatever the fleet's size: nothing is said of single nodes (the agents
say that of themselves), and of sites, vSubnets and segments at most `LISTED` each. How many
were left out is a metric, too.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import cairn_appliance
from cairn_appliance.api.ops_v1.context import Ops
from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.cluster_health import ClusterView, Seen
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.node import Node, NodeState
from cairn_appliance.services.problems import problems_known
from cairn_appliance.store.port import StoreError

T = TypeVar("T")

TEXT = "text/plain; version=0.0.4"
LISTED = 500  # of each kind that has series of its own
VIEW_WITHIN_S = 6.0  # Prometheus waits for 10 s unless told otherwise


async def expose(ops: Ops, accept: str) -> tuple[bytes, str]:
    """Return the text and its content type."""
    view = await _view(ops)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered(list(_gather(ops, view))))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Gathered(Collector):
    """Metrics that are there already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._metrics


async def _view(ops: Ops) -> ClusterView | None:
    """Return how the cluster is; None where that can't be known soon."""
    try:
        async with asyncio.timeout(VIEW_WITHIN_S):
            return await ops.membership.view()
    except (StoreError, TimeoutError):
        return None


def _gather(ops: Ops, view: ClusterView | None) -> Iterator[Metric]:
    info = InfoMetricFamily("cairn_appliance", "This appliance")
    info.add_metric([], {"appliance": view.asked if view else "",
                         "version": cairn_appliance.__version__,
                         "cluster": ops.services.cluster.id})  # fmt: skip
    yield info
    yield from _of_cluster(view)
    yield from _of_problems(ops, view)
    yield from _of_itself(ops)
    yield from _of_map(ops)
    yield from _of_segments(ops)
    yield from _of_events(ops)
    yield from _without_times_of_making(ops.meter.collect())


def _of_cluster(view: ClusterView | None) -> Iterator[Metric]:
    yield _gauge("cairn_cluster_quorum", "1: the store can decide", bool(view and view.has_quorum))
    seen = view.seen if view else ()
    yield _by("cairn_etcd_member_healthy", "1: answers and follows a leader", "member",
              ((each.name, each.is_healthy) for each in seen))  # fmt: skip
    yield _by("cairn_etcd_member_leads", "1: leads", "member",
              ((each.name, each.leads) for each in seen))  # fmt: skip
    yield _by("cairn_appliance_serves", "1: the appliance's APIs run", "member",
              ((each.name, each.replica is not None) for each in seen))  # fmt: skip
    for name, text, field in _SIZES:
        yield _by(name, text, "member", _sizes(seen, field))
    if view is not None:
        lags = ((each.name, view.lag(each)) for each in seen)
        yield _by("cairn_etcd_member_lag_entries", "Entries behind the newest", "member",
                  ((name, lag) for name, lag in lags if lag is not None))  # fmt: skip
    if view is not None and view.backups is not None and view.backups.last is not None:
        yield _gauge("cairn_backup_last_timestamp_seconds", "When the newest backup was made",
                     view.backups.last.made_at)  # fmt: skip


_SIZES = (
    ("cairn_etcd_database_bytes", "Size of the member's database", "db_octets"),
    ("cairn_etcd_database_used_bytes", "Of it in use", "db_used_octets"),
    ("cairn_etcd_database_quota_bytes", "Above it changes are refused", "db_quota_octets"),
)


def _sizes(seen: Iterable[Seen], field: str) -> Iterator[tuple[str, float]]:
    for each in seen:
        if each.state is not None:
            yield each.name, float(getattr(each.state, field))


def _of_problems(ops: Ops, view: ClusterView | None) -> Iterator[Metric]:
    """Tell each alarm there is, so that its absence is a 0 and not a gap."""
    found = [each.problem for each in problems_known(ops.services, view)]
    counts = Counter(each.name for each in found)
    names = [*Alarm, *sorted(counts.keys() - set(Alarm))]
    yield _by("cairn_problems", "What is wrong now, by name (docs/operate/alarms.md)", "name",
              ((str(name), counts[name]) for name in names))  # fmt: skip
    yield _gauge("cairn_problems_urgent", "Problems because of which changes wait",
                 sum(each.is_urgent for each in found))  # fmt: skip
    yield _gauge("cairn_problems_known", "0: how the cluster is could not be asked",
                 view is not None)  # fmt: skip


def _of_itself(ops: Ops) -> Iterator[Metric]:
    own = ops.own()
    if own.fsync_p99_s is not None:
        yield _gauge("cairn_etcd_fsync_p99_seconds", "99 of 100 writes of etcd's log here were on "
                     "the disk within it, in the last 2 minutes", own.fsync_p99_s)  # fmt: skip
    yield CounterMetricFamily("cairn_etcd_leader_changes", "Seen by the etcd here",
                              value=own.leader_changes)  # fmt: skip
    yield _by("cairn_certificate_expiry_timestamp_seconds", "When the certificate ends",
              "certificate", own.certificates)  # fmt: skip
    streams = ops.services.streams
    yield _gauge("cairn_netmap_streams", "Agents that follow their netmap here", streams.count)
    yield _gauge("cairn_netmap_revision", "Up to which the store is served here",
                 ops.services.netmaps.revision)  # fmt: skip
    yield from _without_times_of_making(streams.fan_out.collect())


def _of_map(ops: Ops) -> Iterator[Metric]:
    snapshot, presence = ops.services.netmaps.snapshot, ops.services.presence
    nodes = list(snapshot.nodes.values())
    states = Counter(each.state for each in nodes)
    yield _by("cairn_nodes", "Nodes by state", "state",
              ((str(state), states[state]) for state in NodeState))  # fmt: skip
    approved = [each for each in nodes if each.state is NodeState.APPROVED]
    away = [each for each in approved if not presence.is_connected(each.id)]
    yield _gauge("cairn_nodes_connected", "Approved nodes with a stream at any appliance",
                 len(approved) - len(away))  # fmt: skip
    yield from _of_sites(approved, away)
    vsubnets = sorted(snapshot.vsubnets.values(), key=lambda each: each.id)
    sizes = ((each.name, len(snapshot.members_of(each.id))) for each in vsubnets[:LISTED])
    yield _by("cairn_vsubnet_members", "Members of the vSubnet", "vsubnet", sizes)
    left_out = {
        "site": len({each.site for each in approved}),
        "vsubnet": len(vsubnets),
        "segment": len(snapshot.segments),
    }
    yield _by("cairn_metrics_left_out", f"Things beyond the {LISTED} of a kind that have series",
              "kind", ((kind, max(0, n - LISTED)) for kind, n in left_out.items()))  # fmt: skip


def _of_sites(approved: Iterable[Node], away: Iterable[Node]) -> Iterator[Metric]:
    nodes, missing = Counter(n.site for n in approved), Counter(n.site for n in away)
    sites = sorted(nodes)[:LISTED]
    yield _by("cairn_site_nodes", "Approved nodes of the site", "site",
              ((site, nodes[site]) for site in sites))  # fmt: skip
    yield _by("cairn_site_nodes_connected", "Of them with a stream", "site",
              ((site, nodes[site] - missing[site]) for site in sites))  # fmt: skip


def _of_segments(ops: Ops) -> Iterator[Metric]:
    segments = sorted(ops.services.netmaps.snapshot.segments.values(), key=lambda each: each.id)
    known = [(each, ops.services.election.status(each)) for each in segments[:LISTED]]
    yield _by("cairn_segment_bridging", "1: it is to forward", "segment",
              ((segment.name, segment.is_bridging) for segment, _ in known))  # fmt: skip
    yield _by("cairn_segment_forwarded", "1: a gateway holds the right to forward", "segment",
              ((s.name, s.is_bridging and status.record.holder in s.nodes)
               for s, status in known))  # fmt: skip
    yield _by("cairn_segment_gateways", "Gateways of the segment", "segment",
              ((segment.name, len(segment.nodes)) for segment, _ in known))  # fmt: skip
    yield _by("cairn_segment_gateways_able", "Of them able to forward", "segment",
              ((segment.name, sum(each.is_able for each in status.gateways))
               for segment, status in known))  # fmt: skip
    yield _by("cairn_segment_term", "Rises by one with each change of who forwards", "segment",
              ((segment.name, status.record.term) for segment, status in known))  # fmt: skip


def _of_events(ops: Ops) -> Iterator[Metric]:
    outputs = ops.services.outputs
    text = "Events of the cluster since this appliance was started; each appliance counts all"
    events = CounterMetricFamily("cairn_events", text, labels=("severity",))
    for severity in Severity:
        events.add_metric([str(severity)], outputs.backlog.counts[severity])
    yield events
    yield _gauge("cairn_event_output_sends", "1: this appliance is the one that tells receivers",
                 outputs.sends)  # fmt: skip
    yield CounterMetricFamily("cairn_event_output_sent", "Events told from here",
                              value=outputs.sent)  # fmt: skip
    states = [(receiver.id, delivery) for receiver, delivery in outputs.states()]
    yield _by("cairn_event_output_failing", "1: the receiver does not take events", "receiver",
              ((each, bool(delivery.failing_since)) for each, delivery in states))  # fmt: skip
    yield _by("cairn_event_output_last_ok_timestamp_seconds", "When it took one last; 0: never",
              "receiver", ((each, delivery.last_ok_at) for each, delivery in states))  # fmt: skip


def _without_times_of_making(metrics: Iterable[Metric]) -> Iterator[Metric]:
    """Drop the `_created` series: they double what is counted and tell nothing here."""
    for each in metrics:
        each.samples = [s for s in each.samples if not s.name.endswith("_created")]
        yield each


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _by(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in itertools.islice(values, 2 * LISTED):
        family.add_metric([key], float(value))
    return family
