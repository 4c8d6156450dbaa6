"""What can go wrong, drawn as a tree. Each error takes facts and writes its own sentence.

    SeatrialError
    ├── RegistryUnreachable     the model registry does not answer
    ├── ModelNotFound           no such model, alias or version in the registry
    ├── ModelRefused            registered in a form that is never loaded (a pickle, say)
    ├── ContractBroken          the model and its data do not agree, or a file breaks the contract
    ├── FileMissing             a data file that the settings name is not there
    ├── RungImpossible          a model that cannot have a rung of the precision ladder
    ├── EvidenceMissing         a release without complete, matching, passing evidence
    ├── NothingInProduction     no release of the model serves yet
    ├── LedgerMoved             another release of the model was written down first
    ├── LedgerUnusable          the ledger can't be read or written, or its chain is broken
    ├── RolloutGoesOn           a release of the model is being rolled out already
    ├── RolledBack              a release was tried on users, and taken back
    ├── NoWayBack               there is no former release that could serve again
    ├── BuildFailed             the bento or its environment could not be built
    ├── ContainersFailed        an image could not be built, read or run
    ├── ServiceFailed           a service did not become ready, or died
    ├── PortTaken               another process listens where Seatrial should
    ├── LoadTestInvalid         the generator fell behind, so its figures mean nothing
    ├── NotebookRefused         an unknown or missing notebook parameter, or a failing cell
    └── SettingsInvalid         a setting with an impossible value

A "no" is a value, not an error: a rung that loses accuracy or a release that is too slow yields a
`Verdict` (`pipelines.core.verdict`). Only a surprise is raised.
"""


class SeatrialError(Exception):
    """The root: its text is one sentence that names the thing and the mend."""


class RegistryUnreachable(SeatrialError):
    def __init__(self, uri: str, reason: object) -> None:
        super().__init__(
            f"The model registry at {uri} does not answer ({reason}); "
            "check MLFLOW_TRACKING_URI and that the server is up."
        )


class ModelNotFound(SeatrialError):
    def __init__(self, name: str, *, alias: str | None = None, version: str | None = None) -> None:
        which = f"{name}@{alias}" if alias else f"{name} version {version}" if version else name
        mend = (
            f"set the alias with MlflowClient().set_registered_model_alias('{name}', '{alias}', version)"
            if alias
            else "register it first, or correct the name in defs.yaml"
        )
        super().__init__(f"There is no {which} in the model registry; {mend}.")


class ModelRefused(SeatrialError):
    def __init__(self, name: str, version: str, reason: str, mend: str) -> None:
        super().__init__(f"{name} version {version} is refused: {reason}; {mend}.")


class ContractBroken(SeatrialError):
    def __init__(self, subject: str, reason: str, mend: str) -> None:
        super().__init__(f"{subject} breaks the contract: {reason}; {mend}.")


class FileMissing(SeatrialError):
    def __init__(self, what: str, path: object) -> None:
        super().__init__(
            f"The {what} file {path} does not exist; write it, or correct its path in defs.yaml."
        )


class RungImpossible(SeatrialError):
    def __init__(self, rung: str, reason: str, mend: str) -> None:
        super().__init__(f"There is no {rung} of this model: {reason}; {mend}.")


class EvidenceMissing(SeatrialError):
    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject} is not deployed: {reason}; run its whole release again.")
        self.reason = reason


class NothingInProduction(SeatrialError):
    def __init__(self, model: str) -> None:
        super().__init__(
            f"No release of {model} is in production; run `seatrial release models:/{model}@candidate` first."
        )


class RolloutGoesOn(SeatrialError):
    def __init__(self, model: str, release_id: str) -> None:
        super().__init__(
            f"{release_id} of {model} is being rolled out; wait for its end (`seatrial status`), or end it "
            f"by `seatrial rollback {model}`."
        )


class RolledBack(SeatrialError):
    def __init__(self, release_id: str, why: str) -> None:
        super().__init__(f"{release_id} was rolled back: {why}; the release before goes on serving.")


class NoWayBack(SeatrialError):
    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model} can't go back: {reason}; what serves goes on serving.")


class LedgerMoved(SeatrialError):
    def __init__(self, model: str) -> None:
        super().__init__(f"Another release of {model} was faster; look at `seatrial status`, then try again.")


class LedgerUnusable(SeatrialError):
    def __init__(self, where: str, reason: str, mend: str) -> None:
        super().__init__(f"The ledger {where} can't be used: {reason}; {mend}.")


class BuildFailed(SeatrialError):
    def __init__(self, subject: str, log: object, last_line: str) -> None:
        super().__init__(f"{subject} could not be built: {last_line}; the whole log is {log}.")


class ContainersFailed(SeatrialError):
    def __init__(self, doing: str, reason: str, mend: str) -> None:
        super().__init__(f"{doing} failed: {reason}; {mend}.")


class ServiceFailed(SeatrialError):
    def __init__(self, name: str, reason: str, log: object = "below serving/logs") -> None:
        super().__init__(f"The service {name} {reason}; its log is {log}.")


class PortTaken(SeatrialError):
    def __init__(self, port: int, setting: str) -> None:
        super().__init__(
            f"Port {port} on 127.0.0.1 is used by another process; stop that process or set {setting}."
        )


class LoadTestInvalid(SeatrialError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The load test is void: {reason}; run it on a quieter machine or lower expected_peak_rps."
        )


class NotebookRefused(SeatrialError):
    def __init__(self, notebook: str, reason: str) -> None:
        super().__init__(f"The notebook {notebook} did not run: {reason}.")


class SettingsInvalid(SeatrialError):
    def __init__(self, setting: str, value: object, mend: str) -> None:
        super().__init__(f"{setting} is {value!r}; {mend}.")
