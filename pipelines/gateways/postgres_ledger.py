"""The ledger as a table of a Postgres database, for an installation of several machines."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from pipelines.core.errors import SettingsInvalid
from pipelines.gateways.sql_ledger import WAIT_SECONDS, SqlLedger

SETTING = "SEATRIAL_LEDGER_URL"
FORM = "write postgresql+psycopg://USER:PASSWORD@HOST/NAME, or leave it out for an SQLite file"


class PostgresLedger(SqlLedger):
    """A table of a database, made with the first entry. An older entry is seen by all before a newer one is
    written: writers take turns by an advisory lock, which ends with its connection."""

    begin = ("BEGIN", "SELECT pg_advisory_xact_lock(hashtext('seatrial_ledger'), 1)")
    protection = (
        "CREATE OR REPLACE FUNCTION seatrial_only_added_to() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is only added to'; END $$",
        "CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON seatrial_ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION seatrial_only_added_to()",
    )

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        where = parsed.set(query={}).render_as_string(hide_password=True)
        self.password = str(parsed.password or "")
        try:
            engine = create_engine(
                parsed,
                isolation_level="AUTOCOMMIT",
                pool_pre_ping=True,
                connect_args={"connect_timeout": WAIT_SECONDS},
            )
        except ModuleNotFoundError as error:
            raise SettingsInvalid(
                SETTING, where, "install its driver: pip install 'psycopg[binary]'"
            ) from error
        super().__init__(engine, where)

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._connected() as connection:
            connection.detach()  # closed afterwards, not kept: with it goes the lock
            connection.exec_driver_sql("SELECT pg_advisory_lock(hashtext('seatrial_ledger'), 2)")
            yield

    def _reason(self, error: DBAPIError) -> tuple[str, str]:
        lines = [line.strip(" -") for line in str(error.orig).splitlines() if not line.endswith(":")]
        reason = next(iter(lines), "no reason is given")
        reason = reason.replace(self.password, "***") if self.password else reason
        return reason, f"check {SETTING} and that the server is up"


def _parsed(url: str) -> URL:
    """Raises SettingsInvalid, without what may be a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsInvalid(SETTING, f"{url.partition(':')[0]}:…", FORM) from error
    if parsed.get_backend_name() != "postgresql":
        raise SettingsInvalid(SETTING, f"{parsed.drivername}:…", FORM)
    return parsed.set(drivername="postgresql+psycopg")
