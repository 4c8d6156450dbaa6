"""The words that everything which Envoy is told is made of."""

from typing import Any

Resource = dict[str, Any]

PREFIX = "seatrial"  # of statistics and metadata, and the name of the route configuration
VERSION_PATH = "/-/routes"  # answers with the version of the routes that the worker thread goes by


def address(port: int) -> Resource:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def typed(message: str, /, **settings: Any) -> Resource:
    """A message, by the name of its type below `envoy.`."""
    return {"@type": f"type.googleapis.com/envoy.{message}", **settings}
