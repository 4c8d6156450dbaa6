"""Rounds: a machine is shared and noisy, so contestants take turns and are compared round by round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from pipelines.core.errors import BuildFailed
from tests.benchmarks.harness.load import LoadFailed
from tests.benchmarks.harness.peers import PeerFailed

Figures = dict[str, float]


@dataclass(frozen=True)
class Effort:
    """How often everybody takes a turn, and how long one measurement lasts."""

    rounds: int = 3
    seconds: float = 5.0


@dataclass
class Rounds:
    """figures[contestant] holds the figures of each round; failed[contestant] why there are none."""

    figures: dict[str, list[Figures]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def of(self, contestant: str, figure: str) -> list[float]:
        return [found[figure] for found in self.figures.get(contestant, [])]

    def ratio(self, ours: str, theirs: str, figure: str) -> dict | None:
        """The median of the ratios of each round, with their range; None where one has no figures."""
        pairs = zip(self.of(ours, figure), self.of(theirs, figure), strict=False)
        if not (ratios := [one / other for one, other in pairs]):
            return None
        return {name: round(of(ratios), 4) for name, of in (("median", median), ("low", min), ("high", max))}

    def told(self) -> dict:
        """For results.json: each contestant's medians and rounds, or why it has none."""
        told: dict = {name: {"failed": why} for name, why in self.failed.items()}
        for name, found in self.figures.items():
            if name not in told:
                told[name] = {figure: _spread(self.of(name, figure)) for figure in found[0]}
        return told


def take_turns(contestants: dict[str, Callable[[], Figures]], rounds: int) -> Rounds:
    """A/B/A/B: in every round each is measured once. Who fails is out, and it is told why."""
    taken = Rounds()
    for number in range(rounds):
        for name, measure in contestants.items():
            if name in taken.failed:
                continue
            try:
                found = measure()
                taken.figures.setdefault(name, []).append(found)
                print(
                    f"round {number + 1}: {name}:",
                    *(f"{k} {_short(v)}" for k, v in found.items()),
                    flush=True,
                )
            except (PeerFailed, BuildFailed, LoadFailed) as error:
                taken.failed[name] = str(error)
                taken.figures.pop(name, None)
    return taken


def _spread(figures: Sequence[float]) -> dict:
    return {"median": _short(median(figures)), "rounds": [_short(figure) for figure in figures]}


def _short(figure: float) -> float:
    """Four digits that count."""
    return float(f"{figure:.4g}")
