"""What stops an installation."""

from __future__ import annotations

from cairn_appliance.domain.errors import CairnError


class InstallError(CairnError):
    """The disk was not installed; where writing had begun, the cause says so."""

    code = "install"
    remedy = "correct it, then start the machine from the installation medium again"
