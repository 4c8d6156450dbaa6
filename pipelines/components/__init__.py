"""What users instantiate: one YAML file each."""

from pipelines.components.served_model import ServedModel

__all__ = ["ServedModel"]
