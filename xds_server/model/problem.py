"""Which object, and what is wrong with it: the identity of an object, and the user's mistake as a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """An object's identity. `namespace` is "" for cluster-scoped kinds; both groups of a moved kind parse to the newer one."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Problem:
    """The user's mistake, as a value: it names the object, the field, what is wrong and the remedy; it harms nothing else."""

    ref: ObjectRef | None  # None where not even the identity could be read (broken YAML)
    field: str  # a JSON path such as spec.rules[0].matches[1].path.value; "" for the whole document
    reason: str  # CamelCase, a Gateway API condition reason where one fits, else InvalidObject
    message: str  # what is wrong, and the remedy, in one sentence each
    source: str = ""  # where it was read: "routes.yaml:12", or "" for the API server

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        what = f"{self.ref}: " if self.ref else ""
        return f"{where}{what}{self.field + ': ' if self.field else ''}{self.message}"


class InvalidObject(Exception):
    """Raised while one object is parsed; becomes a `Problem`, crashes nothing."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem
