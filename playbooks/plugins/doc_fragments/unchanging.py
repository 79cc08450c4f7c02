"""What is said of everything that only looks."""

from __future__ import annotations


class ModuleDocFragment:
    """Check mode makes no difference where nothing is changed."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    support: full
    description: Changes nothing in either mode.
  diff_mode:
    support: none
    description: Changes nothing.
"""
