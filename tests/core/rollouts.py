"""Rollouts as their reports get them: the controller over simulated traffic, kept as the ledger, the
controller's process and the experiments keep them."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.core.entries import NOTHING, Action, Entry, sealed
from pipelines.core.release import Release
from pipelines.core.rollout import controller, timeline
from pipelines.core.rollout.agreement import Agreement, Same, agreement
from pipelines.core.rollout.controller import Decision
from pipelines.core.rollout.observation import Arm, Observation
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.rehearsal import Drill
from pipelines.core.rollout.stratified import Analysis, stratified
from tests.benchmarks.rollout import worlds

MODEL, BEGAN, THINNED = "flight_delay", datetime(2026, 3, 2, 9, 30, tzinfo=UTC).timestamp(), 2
SAID: dict[str, Action] = {
    "set_weight": "moved",
    "promote": "promoted",
    "roll_back": "rolled_back",
    "end": "ended",
}


def release(version: str, rung: str) -> Release:
    id = f"v{version}-9f{version}c20e1"
    evidence = {"onnx_sha256": "5e" * 32, "holdout_sha256": "a1" * 32}
    return Release(MODEL, version, id, rung, f"{MODEL}:{id}", f"/{MODEL}", f"artifacts/{id}", evidence)


OLD, NEW = release("3", "fp32"), release("4", "int8_static")


def entry(before: list[Entry], at: float, action: Action, release: Release, **details) -> Entry:
    number = 1 if action == "deployed" else 2
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    previous = before[-1].digest if before else NOTHING
    rollout = None if number == 1 else number
    return sealed(Entry(len(before) + 1, time, MODEL, action, release, rollout, details, previous))


def run(
    plan: Plan, canary: worlds.Release, seed: int = 0, rps: float = 100
) -> tuple[list[Entry], list[dict]]:
    """The ledger's entries and the lines of the timeline, a look every `THINNED` seconds and at decisions."""
    rng, decision = np.random.default_rng(seed), controller.start(plan, BEGAN)
    history = [entry([], BEGAN - 86_400, "deployed", OLD)]
    history.append(
        entry(
            history, BEGAN, "started", NEW, plan=plan.to_dict(), state=decision.state.to_dict(), why="asked"
        )
    )
    lines = [line(decision, Observation(0, 0, None, None))]
    while not decision.state.is_over:
        step = plan.steps[decision.state.step]
        world = worlds.World(canary, rps, step.canary_share)
        counts = world.simulate(rng, 1, int(step.max_seconds) + 1)
        for second in range(int(step.max_seconds) + 1):
            look = world.look(*counts, 0, second)
            now = decision.state.since + second + 1
            decision = controller.advance(decision.state, plan, look, now)
            if decision.action != "hold" or second % THINNED == 0:
                lines.append(line(decision, look))
            if decision.action != "hold":
                details = {"state": decision.state.to_dict(), "why": decision.why}
                history.append(entry(history, now, SAID[decision.action], NEW, **details))
                break
    return history, lines


def line(decision: Decision, look: Observation) -> dict:
    state = {name: value for name, value in decision.state.to_dict().items() if name != "history"}
    findings = [asdict(each) for each in decision.assessment.findings] if decision.assessment else []
    arms = {"stable": count(look.stable), "canary": count(look.canary)}
    return {"at": decision.state.at, "state": state, "seconds": look.seconds, **arms, "findings": findings}


def count(arm: Arm | None) -> dict | None:
    return arm and {"requests": arm.requests, "errors": arm.errors}


def write(folder: Path, history: list[Entry], lines: list[dict]) -> None:
    folder.mkdir(exist_ok=True)
    timeline.save(folder, history, 2)
    text = "".join(f"{json.dumps(each)}\n" for each in lines)
    (folder / timeline.LOOKS_FILE).write_text(text)


def shadowed(rows: int = 4000, noise: float = 0.02) -> Agreement:
    rng = np.random.default_rng(4)
    stable = rng.beta(2, 5, rows)
    frame = pd.DataFrame(
        {
            "request_id": [f"{at:08x}-shadow" for at in range(rows)],
            "row": 0,
            "stable": stable,
            "canary": (stable + rng.normal(0, noise, rows)).clip(0, 1),
            "stable_ms": 6 * rng.lognormal(0, 0.4, rows),
            "canary_ms": 4 * rng.lognormal(0, 0.4, rows),
        }
    )
    found = agreement([frame], Same("probability", 0.5), 0.2, top=5)
    inputs = [{"carrier": "<DL>", "distance": 733.0 + at, "hour": 6 + at} for at in range(5)]
    asked = [replace(each, inputs=row) for each, row in zip(found.disagreements, inputs, strict=False)]
    return replace(found, disagreements=tuple(asked))


def analysed(users: int = 12_000, effect: float = 0.03, metric: str = "rebookings") -> Analysis:
    rng = np.random.default_rng(5)
    carrier = rng.choice(["AA", "B6", "DL", "UA", "HA"], users, p=[0.4, 0.3, 0.2, 0.095, 0.005])
    is_canary = rng.random(users) < 0.5
    value = pd.Series(carrier).map({"AA": 0.2, "B6": 0.5, "DL": 0.9, "UA": 1.4, "HA": 2})
    value += rng.normal(0, 0.3, users) + effect * is_canary
    arm = np.where(is_canary, "canary", "stable")
    frame = pd.DataFrame({"user": np.arange(users), "arm": arm, "value": value, "stratum": carrier})
    return stratified(frame, metric, needed=20_000)


DRILL = Drill(OLD.release_id, NEW.release_id, 4000, 0, 1994, 0.043, 0.061, "2026-03-02T09:12:44.120+00:00")
