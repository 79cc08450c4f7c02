"""What can be refused or go wrong, each with its code, cause and remedy.

`api/errors.py` gives every class its HTTP status; the commands print cause and remedy.
"""

from __future__ import annotations


class CairnError(Exception):
    """The root; `code` is for machines, `cause` and `remedy` are sentences for people."""

    code = "internal_error"
    remedy = "look into the appliance's log and report this"

    def __init__(self, cause: str, remedy: str | None = None, *, code: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        if remedy is not None:
            self.remedy = remedy
        if code is not None:
            self.code = code


class Invalid(CairnError):
    """What was asked for can't be."""

    code = "invalid"
    remedy = "correct the value and ask again"


class NotFound(CairnError):
    """There is no such thing."""

    code = "not_found"
    remedy = "list what there is and ask again"


class Ambiguous(CairnError):
    """A name fits more than one thing."""

    code = "ambiguous"
    remedy = "use the ID instead of the name"


class Clash(CairnError):
    """It contradicts what there is already."""

    code = "conflict"
    remedy = "look at what is there, and choose another value"


class Changed(Clash):
    """It was changed by someone else since it was read (If-Match)."""

    code = "changed_meanwhile"
    remedy = "read it again and repeat the change if it is still wanted"


class NoAddressLeft(Clash):
    """The vSubnet's prefix has no free address."""

    code = "no_address_left"
    remedy = "delete members that are gone, or make a vSubnet with a larger prefix"


class DuplicateNode(Clash):
    """Two machines show the same identity (control-plane.md, Generation)."""

    code = "duplicate_node"
    remedy = (
        "this machine looks like a copy of another: its agent makes a new identity by itself "
        "and waits for an operator (`cairn node list --state pending`)"
    )


class NodeFrozen(Clash):
    """Machines took an identity from each other too often: none of them may register."""

    code = "node_frozen"
    remedy = (
        "switch off all but one of the machines that have this identity, then let it in again "
        "with `cairn node unfreeze`"
    )


class BackupFailed(Clash):
    """A backup could not be made; the cause is the disk's or the store's."""

    code = "backup_failed"
    remedy = "see `cairn cluster status`, then try again"


class UpdateUnusable(Invalid):
    """The file of an update is none that this machine may install; the code says why."""

    code = "update_unusable"
    remedy = "take the file of a release, and check its checksum against SHA256SUMS"


class UpdateRefused(Clash):
    """An update, or the way back, can't be now."""

    code = "update_refused"
    remedy = "`cairn cluster update status` shows how it stands"


class Refused(CairnError):
    """The one who asks may not."""

    code = "refused"
    remedy = "ask someone who may"


class TokenRefused(Refused):
    """The enrolment token is not accepted; the code says why, as far as may be told."""

    code = "token_refused"
    remedy = "make a new token with `cairn token create`"


class JoinRefused(Refused):
    """The join string of an appliance is not accepted; why is told as far as may be."""

    code = "join_refused"
    remedy = "make a new string with `cairn cluster join-string`"


class VersionTooOld(Refused):
    """The store holds what this version can't read and would spoil."""

    code = "version_too_old"
    remedy = (
        "install the version that the other appliances run (`cairn cluster status`), then start "
        "it again; its data directory is all right"
    )


class UpgradeStopped(Refused):
    """A version that is new to the cluster does not begin without a backup of before."""

    code = "upgrade_without_backup"


class QuorumAtRisk(Clash):
    """What was asked for would leave too few members of etcd to agree on anything."""

    code = "quorum_at_risk"
    remedy = "bring the other appliances back first: `cairn cluster status` says which are away"


class NodeRemoved(Refused):
    """The node was removed or rejected, or it left."""

    code = "node_removed"
    remedy = "run `cairn-agent leave` on the node and join again with a new token"


class NodeBecame(NodeRemoved):
    """An operator said which node this machine is: it has to take up that identity."""

    code = "node_became"
    remedy = "nothing: the agent takes up the other identity by itself"


class CertificateRequired(Refused):
    """No client certificate that counts here came with the request."""

    code = "certificate_required"
    remedy = "connect with the certificate that enrolment gave to this node"


class NotSignedIn(CairnError):
    """The operations API does not know who is asking."""

    code = "not_signed_in"
    remedy = "sign in with `cairn login`"


class TooMany(CairnError):
    """Too many requests in too short a time."""

    code = "too_many_requests"
    remedy = "wait a minute and try again"

    def __init__(
        self,
        cause: str,
        remedy: str | None = None,
        *,
        code: str | None = None,
        retry_after_s: float = 60.0,
    ) -> None:
        super().__init__(cause, remedy, code=code)
        self.retry_after_s = retry_after_s


class Unavailable(CairnError):
    """The store has no quorum, or too many change the same thing at once."""

    code = "unavailable"
    remedy = "try again in a few seconds; if it lasts, look at `cairn status`"
    retry_after_s = 2.0


class Restoring(Unavailable):
    """The cluster was restored or recovered, and listens to its nodes first.

    The agent's side of the code is cairn_agent.protocol.reassertion.RESTORING.
    """

    code = "restoring"
    remedy = (
        "nothing: nodes go on with the netmap that they have; see `cairn cluster status` for "
        "how long it takes"
    )


class StoreFull(Unavailable):
    """The store's quota is used up: what there is can be read, nothing can be changed."""

    code = "store_full"
    remedy = (
        "wait a minute: the appliances make room by themselves; if it lasts, "
        "`cairn cluster status` says what to do"
    )
    retry_after_s = 20.0
