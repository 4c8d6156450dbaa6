"""`seatrial plan`: how many replicas of a release a rate takes, from what its load test recorded."""

from dataclasses import asdict, dataclass, replace
from math import isfinite

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bentos.manifest import Manifest, Plan
from pipelines.core.capacity.fleet import Fleet, FleetPlan, plan_fleet
from pipelines.core.capacity.profile import PROFILE_FILE, Profile
from pipelines.core.capacity.proposal import Demand
from pipelines.core.errors import SettingsInvalid
from pipelines.core.home import Home
from pipelines.gateways.machine import processor
from pipelines.installation import Installation

NOTHING = {"replicas": "0", "cores": "0", "answered in time/s": "0"}
"""The figures where no replica is left."""


@dataclass(frozen=True)
class Wish:
    """What the command was told; None: as the release promises, or no price."""

    peak_rps: float | None = None
    p99_ms: float | None = None
    max_error_rate: float | None = None
    price_per_core_hour: float | None = None
    regions: int = 1


@dataclass(frozen=True)
class Foretold:
    """The fleet, what it is made of, and what should be known of the figures."""

    manifest: Manifest
    fleets: FleetPlan
    notes: tuple[str, ...] = ()

    def told(self) -> dict:
        """As data, for programs."""
        manifest, plan = self.manifest, self.manifest.plan
        release = {**manifest.identity, "rung": manifest.rung}
        names = ("workers", "threads", "max_batch_size", "max_queue_rows", "max_latency_ms")
        replica = {name: getattr(plan, name) for name in names}
        return {**release, "replica": replica, **asdict(self.fleets), "notes": list(self.notes)}


def foretell(installation: Installation, model: str, version: str | None, wish: Wish) -> Foretold:
    """The fleet for a wish. Raises SettingsInvalid."""
    _check(wish)
    version = version_of(installation, model, version)
    manifest = Manifest.load(installation.home.artifact(model, version, "bento"))
    profile = _profile(installation.home, model, version)
    demand = _demand(wish, manifest)
    plan = _promised(manifest, demand)
    fleets = plan_fleet(profile, plan, demand, wish.price_per_core_hour, wish.regions)
    return Foretold(replace(manifest, plan=plan), fleets, _notes(profile, processor()))


def version_of(installation: Installation, model: str, version: str | None) -> str:
    """The version that was asked for, else the one in production, else the latest that has a profile. Raises
    SettingsInvalid where it, or the model, has none."""
    home = installation.home
    models = sorted(path.name for path in home.artifact("", "", "").glob("*"))
    if model not in models:
        known = (
            f"there are {', '.join(models)}" if models else "nothing was released yet: run `seatrial demo`"
        )
        raise SettingsInvalid("MODEL", model, known)
    tested = _tested(home, model)
    if not tested:
        mend = f"none of its versions was load-tested: run `seatrial release models:/{model}@candidate`"
        raise SettingsInvalid("MODEL", model, mend)
    serving = installation.ledger.production(model)
    chosen = version or (serving.version if serving else tested[-1])
    if chosen not in tested:
        mend = f"no load test of it recorded a profile; those of {', '.join(tested)} did"
        raise SettingsInvalid("--version", chosen, mend)
    return chosen


def _tested(home: Home, model: str) -> list[str]:
    """The versions that have a profile, the latest last."""
    profiles = home.artifact(model, "", "").glob(f"*/load_test/{PROFILE_FILE}")
    versions = [path.parents[1].name for path in profiles]
    return sorted(versions, key=lambda version: (len(version), version))


def _profile(home: Home, model: str, version: str) -> Profile:
    folder = home.artifact(model, version, "load_test")
    try:
        return Profile.load(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        mend = "it is damaged or of another version of Seatrial: release the model again"
        raise SettingsInvalid("The recorded profile", str(folder / PROFILE_FILE), mend) from error


def _check(wish: Wish) -> None:
    """Raises SettingsInvalid for a number that cannot be."""
    positives = {
        "--peak": (wish.peak_rps, "requests a second, such as 200"),
        "--p99": (wish.p99_ms, "milliseconds, such as 50"),
        "--price": (wish.price_per_core_hour, "the price of a core for an hour, such as 0.04"),
    }
    for name, (value, what) in positives.items():
        if value is not None and not (isfinite(value) and value > 0):
            raise SettingsInvalid(name, value, f"it must be more than 0: {what}")
    if wish.regions < 1:
        raise SettingsInvalid("--regions", wish.regions, "it must be at least 1")
    if wish.max_error_rate is not None and not 0 <= wish.max_error_rate < 1:
        raise SettingsInvalid("--max-error-rate", wish.max_error_rate, "it is a share, such as 0.001")


def _demand(wish: Wish, manifest: Manifest) -> Demand:
    slo = manifest.slo
    return Demand(
        peak_rps=wish.peak_rps or slo.expected_peak_rps,
        p99_ms=wish.p99_ms or slo.p99_ms,
        max_error_rate=slo.max_error_rate if wish.max_error_rate is None else wish.max_error_rate,
    )


def _promised(manifest: Manifest, demand: Demand) -> Plan:
    """The plan, where its deadline is what was promised, with the deadline that is demanded."""
    plan, slo = manifest.plan, manifest.slo
    if demand.p99_ms == slo.p99_ms or plan.max_latency_ms != slo.p99_ms:
        return plan
    return replace(plan, max_latency_ms=demand.p99_ms, max_queue_rows=None)


def _notes(profile: Profile, machine: str) -> tuple[str, ...]:
    if profile.machine == machine:
        return ()
    return (
        f"The profile was recorded on {profile.machine}, and this is {machine}: it holds for the former.",
    )


def print_plan(found: Foretold, console: Console) -> None:
    """The same for people."""
    manifest, fleets, plan = found.manifest, found.fleets, found.manifest.plan
    demand = fleets.demand
    console.print(
        f"[bold]{escape(manifest.model)}[/] version {escape(manifest.version)} ({manifest.rung}): "
        f"{demand.peak_rps:,g}/s, p99 within {demand.p99_ms:g} ms, errors at most {demand.max_error_rate:.2%}"
    )
    console.print(
        f"One replica: {plan.workers} × {plan.threads} cores (workers × threads), batches of up to "
        f"{plan.max_batch_size} rows."
    )
    console.print(_table(fleets))
    for failure in fleets.failures:
        console.print(f"To keep the promise when {failure.what}: {_size(failure.proof)}.")
    for note in found.notes:
        console.print(f"Note: {note}", markup=False)


def _table(fleets: FleetPlan) -> Table:
    columns = {"all is well": fleets.normal} | {failure.what: failure.left for failure in fleets.failures}
    table = Table("when", show_header=True)
    for name in columns:
        table.add_column(name, justify="right")
    figures = [NOTHING if fleet is None else _figures(fleet) for fleet in columns.values()]
    for name in figures[0]:
        table.add_row(name, *(of.get(name, "–") for of in figures))
    return table


def _figures(fleet: Fleet) -> dict[str, str]:
    stage = fleet.stage
    figures = {
        "replicas": f"{fleet.replicas:,}",
        "cores": f"{fleet.cores:,}",
        "p50 ms": f"{stage.p50_ms:.1f}",
        "p99 ms": f"{stage.p99_ms:.1f}",
        "refused": f"{fleet.refused_share:.2%}",
        "answered in time/s": f"{fleet.goodput_rps:,.1f}",
        "busy": f"{fleet.busy:.0%}",
        "rows a batch": f"{fleet.mean_batch:.1f}",
    }
    if fleet.cost_per_hour is not None:
        million = fleet.cost_per_million
        figures["cost an hour"] = f"{fleet.cost_per_hour:,.4g}"
        figures["cost a million"] = "–" if million is None else f"{million:,.4g}"
    return figures


def _size(fleet: Fleet) -> str:
    size = f"{fleet.replicas:,} replicas, {fleet.cores:,} cores"
    return size if fleet.cost_per_hour is None else f"{size}, {fleet.cost_per_hour:,.4g} an hour"
