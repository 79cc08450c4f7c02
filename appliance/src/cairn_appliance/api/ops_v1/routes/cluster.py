"""The cluster's appliances: how they are, who joins, leaves, is replaced."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from fastapi import APIRouter, Request

from cairn_appliance.api.ops_v1.context import ActorDep, OpsDep, client_address
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import (
    ApplianceOut,
    ClusterOut,
    JoinAsked,
    JoinOut,
    JoinStringAsked,
    JoinStringOut,
    ProblemOut,
    UpgradeFinishedOut,
    UpgradeOut,
    moment,
    moment_or_none,
)
from cairn_appliance.domain.cluster_health import ClusterView, Seen, problems_of
from cairn_appliance.domain.problem import Problem
from cairn_appliance.domain.upgrade import check_upgrade
from cairn_appliance.services.membership import Candidate, Issued

router = APIRouter(prefix="/cluster", tags=["cluster"], route_class=IdempotentRoute)
joining = APIRouter(prefix="/cluster", tags=["cluster"])  # for who has no session to be known by


@router.get("")
async def get_cluster(ops: OpsDep) -> ClusterOut:
    """All appliances, how their etcds are, and what is wrong with what to do."""
    cluster = ops.services.cluster
    view = await ops.membership.view()
    agents = ops.services.netmaps.snapshot.agents()
    return cluster_out(cluster.id, cluster.incarnation, view, agents)


@router.post("/join-strings", status_code=201)
async def create_join_string(asked: JoinStringAsked, ops: OpsDep, by: ActorDep) -> JoinStringOut:
    """Make a join string for one new appliance; it is in this answer and in no other."""
    return _issued(await ops.membership.issue(by, asked.life_s))


@joining.post("/join")
async def join(asked: JoinAsked, ops: OpsDep, request: Request) -> JoinOut:
    """A new appliance shows its join string and gets what it needs, sealed by its secret."""
    nonce = base64.b64decode(asked.nonce, validate=True)
    candidate = Candidate(asked.id, asked.secret, nonce, asked.peer_url)
    async with ops.joinings.attempt(client_address(request)):
        sealed = await ops.membership.admit(candidate)
    return JoinOut(sealed=base64.b64encode(sealed).decode())


@router.post("/finish-upgrade")
async def finish_upgrade(ops: OpsDep, by: ActorDep) -> UpgradeFinishedOut:
    """Let the new version's format be written; 409 `upgrade_unfinished` where one is older."""
    raised = await ops.membership.finish_upgrade(by)
    return UpgradeFinishedOut(format=raised.now, before=raised.before)


@router.delete("/appliances/{appliance}", status_code=204)
async def remove_appliance(appliance: str, ops: OpsDep, by: ActorDep) -> None:
    """Let an appliance leave; 409 `quorum_at_risk` where the others could not do without."""
    await ops.membership.leave(appliance, by)


@router.post("/appliances/{appliance}/replace", status_code=201)
async def replace_appliance(appliance: str, ops: OpsDep, by: ActorDep) -> JoinStringOut:
    """Remove a dead appliance and make the join string for its successor."""
    return _issued(await ops.membership.replace(appliance, by))


def cluster_out(
    cluster_id: str, incarnation: int, view: ClusterView, agents: Mapping[str, str]
) -> ClusterOut:
    """Return the cluster as it is shown; `agents`: node name -> version."""
    check = check_upgrade(view, agents)
    last = view.backups.last if view.backups else None
    return ClusterOut(
        id=cluster_id,
        incarnation=incarnation,
        has_quorum=view.has_quorum,
        appliances=[_appliance_out(view, each) for each in view.seen],
        problems=problems_out(view),
        upgrade=UpgradeOut(
            ready=check.is_ready,
            order=list(check.order),
            findings=[problem_out(each) for each in check.findings],
            last_backup_at=moment_or_none(last.made_at if last else 0.0),
        ),
    )


def problems_out(view: ClusterView) -> list[ProblemOut]:
    """Return what is wrong, as it is shown."""
    return [problem_out(each) for each in problems_of(view)]


def problem_out(problem: Problem) -> ProblemOut:
    """Return one thing that is wrong, as it is shown."""
    return ProblemOut(
        name=problem.name, cause=problem.cause, remedy=problem.remedy, urgent=problem.is_urgent
    )


def _issued(issued: Issued) -> JoinStringOut:
    made = issued.joining
    return JoinStringOut(
        name=made.name, expires_at=moment(made.expires_at), join_string=issued.text
    )


def _appliance_out(view: ClusterView, seen: Seen) -> ApplianceOut:
    state, known, replica = seen.state, seen.appliance, seen.replica
    return ApplianceOut(
        name=seen.name,
        votes=not seen.member.is_learner,
        leads=seen.leads,
        healthy=seen.is_healthy,
        serves=replica is not None,
        since=moment_or_none(replica.since if replica else 0.0),
        version=known.version if known else "",
        protocol=known.protocol if known else None,
        etcd_version=state.version if state else "",
        agents=list(known.agents) if known else [],
        operations=list(known.operations) if known else [],
        peer_urls=list(seen.member.peer_urls),
        db_octets=state.db_octets if state else None,
        db_used_octets=state.db_used_octets if state else None,
        behind=view.lag(seen),
    )
