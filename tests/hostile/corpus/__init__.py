"""Every case, group by group."""

from . import floods, framing, headers, paths, policies, responses, slow, tls

GROUPS = [framing, headers, paths, tls, policies, responses, floods, slow]


def cases():
    return [case for group in GROUPS for case in group.CASES]
