"""Everything that edge-uad raises on purpose.

    EdgeUadError                     exit code
    ├── UsageError                   2   the request cannot be carried out as given
    │   ├── SettingsError            2   a config file's key or value
    │   ├── EndpointError            2   an address in use, malformed, or open to the network without keys
    │   ├── KeyFileError             2   a CURVE key that is missing, damaged, or readable by others
    │   ├── MissingExtraError        2   a package that an extra brings
    │   └── ClusterError             2   no cluster there, or a worker that cannot take part
    ├── ArtefactError                3   a file that a restart will not mend
    │   ├── ModelError               3
    │   ├── BankError                3
    │   ├── RecordsDamagedError      3   a records file whose content is not what was written
    │   └── WeightsError             3   a checkpoint or a download
    ├── ProviderError                3   a requested accelerator that is not active
    ├── FrameError                   2   this frame cannot be judged: a daemon's verdict is *invalid*
    ├── SubscriberError              1   a part may have passed without its verdict
    │   ├── SilenceError             1   no heartbeat
    │   └── GapError                 1   published verdicts did not arrive
    └── SourceError                  2   no frames arrive: a daemon waits
        ├── SourceLostError          2   open the source again, later
        └── SourceEndedError         2   there will be no more

A message is one sentence that names the thing and the remedy. Exit codes: 0 stopped, 1 crash, 2 usage or
config, 3 a restart will not help. ``edge-uad replay`` adds 4, a verdict changed, and ``edge-uad records verify`` 5,
records were altered or are damaged; ``edge_uad.cli.run`` those of signals.
"""

from typing import ClassVar


class EdgeUadError(Exception):
    """The root; the CLI prints its text and exits with its code."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgeUadError):
    """The request cannot be carried out as given."""

    exit_code = 2


class SettingsError(UsageError):
    """A config file's key or value is wrong."""


class EndpointError(UsageError):
    """An address is in use, malformed, or open to the network without keys."""


class KeyFileError(UsageError):
    """A CURVE key is missing, damaged, or readable by others."""


class MissingExtraError(UsageError):
    """A package is not installed that one of the extras brings."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the [{extra}] extra; run: pip install 'edge-uad[{extra}]'")


class ClusterError(UsageError):
    """A cluster is not there, was lost, or has a worker that cannot take part."""


class ArtefactError(EdgeUadError):
    """A file is not what it should be; starting again will not mend it."""

    exit_code = 3


class ModelError(ArtefactError):
    """A backbone file cannot be used."""


class BankError(ArtefactError):
    """A memory bank cannot be used."""


class RecordsDamagedError(ArtefactError):
    """A records file is damaged."""


class WeightsError(ArtefactError):
    """Weights cannot be fetched, are not what was published, or do not fit the architecture."""


class ProviderError(EdgeUadError):
    """The requested accelerator is not active; there is no silent fall back to the CPU."""

    exit_code = 3


class FrameError(EdgeUadError):
    """This frame cannot be judged; the text becomes its verdict's reason."""

    exit_code = 2


class SubscriberError(EdgeUadError):
    """A part may have passed without its verdict: the line treats it as reject."""


class SilenceError(SubscriberError):
    """No heartbeat arrived.

    Args:
        message: one sentence.
        stations: that are silent; none where none was ever heard.
    """

    def __init__(self, message: str, stations: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.stations = stations


class GapError(SubscriberError):
    """Verdicts were published and did not arrive.

    Args:
        message: one sentence.
        station: whose verdicts.
        missed: how many.
    """

    def __init__(self, message: str, station: str, missed: int) -> None:
        super().__init__(message)
        self.station = station
        self.missed = missed


class SourceError(EdgeUadError):
    """Frames stay away."""

    exit_code = 2


class SourceLostError(SourceError):
    """The source is gone or not there yet; open it again later."""


class SourceEndedError(SourceError):
    """The source has given its last frame."""
