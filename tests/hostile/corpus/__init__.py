"""Every case, group by group."""

from . import framing

GROUPS = [framing]


def cases():
    return [case for group in GROUPS for case in group.CASES]
