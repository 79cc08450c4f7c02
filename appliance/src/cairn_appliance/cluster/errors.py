"""What this package raises; `exit_code` is the documented one of our commands."""

from cairn_appliance.domain.errors import CairnError


class LocalStateUnusable(CairnError):
    """The data directory can't be used: missing, corrupt, disk full, permissions."""

    code = "local_state"
    exit_code = 5


class EnvironmentLacks(CairnError):
    """The machine lacks something: a port is in use, there is no etcd."""

    code = "environment"
    exit_code = 6


class RemovedFromCluster(CairnError):
    """The cluster has removed this appliance; its data can never be used again."""

    code = "removed_from_cluster"
    exit_code = 4
