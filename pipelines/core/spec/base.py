"""What all sections of settings share: unknown keys are errors, and a wrong value says what to write."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

Device = Literal["cpu", "cuda"]


def _fraction(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"is a fraction such as 0.01, not {value:g} (percent)")
    return value


def _positive(value):
    for number in value if isinstance(value, list) else [value]:
        if number is not None and number <= 0:
            raise ValueError(f"must be greater than 0, not {number:g}")
    return value


def fractions(*names: str):
    """Validate these fields as fractions of one."""
    return field_validator(*names)(_fraction)


def positives(*names: str):
    """Validate these fields as numbers (or lists of numbers) greater than zero."""
    return field_validator(*names)(_positive)


class Settings(BaseModel):
    """The base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def digest(self) -> str:
        """A short digest that changes when any setting in here does."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
