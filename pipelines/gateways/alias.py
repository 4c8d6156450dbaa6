"""The alias that says in the registry what is in production. It moves only with an entry in the ledger."""

from pipelines.core.entries import TAKES_OVER
from pipelines.core.errors import ModelNotFound
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.registry import Registry

CHAMPION = "champion"


def settle(ledger: Ledger, registry: Registry, model: str) -> str | None:
    """Let the alias follow the ledger; returns the version that it was moved to, None where it was right.
    Raises RegistryUnreachable, LedgerMoved."""
    found = ledger.standing(model)
    release = found.production
    if release is None or not release.registered:
        return None
    before = _now(registry, release.registered)
    if before == release.version:
        return None
    if not _is_recorded(ledger, model, release.version):
        details = {"alias": CHAMPION, "version": release.version, "before": before}
        ledger.append(model, "alias_moved", after=found.last, details=details)
    registry.set_alias(release.registered, CHAMPION, release.version)
    return release.version


def _now(registry: Registry, name: str) -> str | None:
    try:
        return registry.resolve(name, CHAMPION)
    except ModelNotFound:
        return None


def _is_recorded(ledger: Ledger, model: str, version: str) -> bool:
    """Whether the entry is there, and only the alias was not moved any more."""
    actions = (*TAKES_OVER, "alias_moved")
    last = next(each for each in reversed(ledger.history(model)) if each.action in actions)
    return last.action == "alias_moved" and last.details.get("version") == version
