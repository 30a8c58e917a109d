"""Queries that the boards are made of. Each takes metrics of the catalogue, so a name is never spelled twice."""

from observability import catalogue as c
from observability.catalogue import Metric
from observability.dashboards.model import Query


def names(by: str) -> str:
    """A legend: the values of these labels."""
    return " ".join(f"{{{{{name.strip()}}}}}" for name in by.split(",") if name)


def selected(metric: Metric, where: str = "", suffix: str = "") -> str:
    selector = f"{where},$selector" if where else "$selector"
    return f"{metric.name}{suffix}{{{selector}}}"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def rate(metric: Metric, by: str = "", where: str = "", suffix: str = "") -> str:
    """Sum of the rates."""
    return f"sum{_by(by)}(rate({selected(metric, where, suffix)}[$window]))"


def rate_or_0(metric: Metric, by: str = "", where: str = "") -> str:
    """Errors are absent until the first: 0 is then the truth, and "no data" would look like an outage."""
    return f"({rate(metric, by, where)} or {'on() ' if by else ''}vector(0))"


def quantile(q: float, metric: Metric, by: str = "", where: str = "") -> Query:
    grouped = f"le,{by}" if by else "le"
    legend = f"{names(by)} p{q * 100:g}".strip()
    return Query(f"histogram_quantile({q}, {rate(metric, grouped, where, '_bucket')})", legend)


def quantiles(metric: Metric, where: str = "") -> tuple[Query, ...]:
    return tuple(quantile(q, metric, where=where) for q in (0.5, 0.95, 0.99))


def rates(metric: Metric, by: str, where: str = "") -> tuple[Query, ...]:
    return (Query(rate_or_0(metric, by, where), names(by) or "all"),)


def most(metric: Metric, by: str, where: str = "") -> Query:
    """The largest of the replicas: each tells of the same pool."""
    return Query(f"max by ({by}) ({selected(metric, where)})", names(by))


def total(metric: Metric, by: str = "", where: str = "") -> Query:
    """The sum over the replicas: each tells of its own."""
    return Query(f"sum{_by(by)}({selected(metric, where)})", names(by))


def share(part: str, whole: str) -> str:
    return f"{part} / clamp_min({whole}, 1e-9)"


def mean(metric: Metric, by: str = "", where: str = "") -> Query:
    """Of a histogram. By group, it has no value where nothing was observed."""
    return Query(
        f"{rate(metric, by, where, '_sum')} / {rate(metric, by, where, '_count')}", f"{names(by)} mean".strip()
    )


def cost(by: str, window: str = "rate") -> str:
    """Money: a second by `rate`, or of a day by `increase`. What was cached is a part of the input, and has a price of its own."""

    def tokens(kind: str) -> str:
        return _counted(kind, f"type,{by}" if by else "type", window)

    parts = (
        f"{tokens('input')} * $input_price",
        f"{tokens('cached_input')} * ($cached_price - $input_price)",
        f"{tokens('output')} * $output_price",
    )
    return f"sum{_by(by)}({' or '.join(parts)}) / 1e6"


def saved(window: str = "rate") -> str:
    """Money that cached input did not cost."""
    return f"{_counted('cached_input', '', window)} * ($input_price - $cached_price) / 1e6"


def _counted(kind: str, by: str, window: str) -> str:
    chosen = selected(c.TOKENS_TOTAL, f'type="{kind}"')
    span = {"rate": "$window", "increase": "1d"}[window]
    return f"sum{_by(by)}({window}({chosen}[{span}]))"
