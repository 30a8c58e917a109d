"""Who is at fault in a NACK, as far as Envoy's text says. Source: seen on Envoy 1.40, for one and for several resources."""

import re
from collections.abc import Mapping, Sequence

from xds_server.snapshot import CDS, LDS, Resource


def blame(type_url: str, error: str, candidates: Sequence[str] | Mapping[str, Resource]) -> tuple[str, ...]:
    """The candidates that Envoy's error text names; none if it names none (RDS, EDS and SDS never do).

    CDS says `Error adding/updating cluster(s) a: why, b: why`, LDS the same of `listener(s)`, one a line.
    """
    noun = {CDS: "cluster(s) ", LDS: "listener(s) "}.get(type_url)
    if noun is None or noun not in error:
        return ()
    text = error.split(noun, 1)[1]
    return tuple(name for name in candidates if re.search(rf"(?:^|, |\n){re.escape(name)}: ", text))
