"""The doors of the installation, as Dagster resources."""

import dagster as dg

from pipelines.installation import Installation


@dg.definitions
def resources() -> dg.Definitions:
    """The doors of this installation, as Dagster resources.

    Runs stay in one process: its steps share their imports, which would cost more than the steps themselves.
    """
    resources = Installation.from_environment().resources()
    return dg.Definitions(resources=resources, executor=dg.in_process_executor)
