"""Where one local run keeps its state.

Everything lies under one directory, so that deleting it resets everything and two homes never
meet. Nothing here is created on import; `Home.create` makes the directories.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from hymirec import __version__
from hymirec.errors import UsageError

LAYOUT = 1
"""Of the homes that this release makes and works with; see `hymirec.upgrades`."""
ENV_HOME = "HYMIREC_HOME"
"""The directory that holds all state, where `--home` does not say."""
ENV_MLFLOW = "HYMIREC_MLFLOW"
"""Address of MLflow's store or server, any that MLflow takes; a file of the home if not set."""
ENV_ARTIFACTS = "HYMIREC_ARTIFACTS"
"""Where a new home's MLflow artifacts go, any URI that MLflow takes; the home if not set."""
MLFLOW_STORES = ("http", "https", "postgresql", "mysql", "mssql", "sqlite", "databricks")
"""Kinds of address that MLflow knows."""
DEFAULT_HOME = Path(".hymirec")


@dataclass(frozen=True)
class Home:
    """Paths of one home; `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, path: Path | str) -> Home:
        """Name a home by path, absolute or relative to the working directory.

        Raises:
            UsageError: the path has a question mark, which the databases' addresses cannot hold.
        """
        root = Path(path).expanduser().resolve()
        if "?" in str(root):
            raise UsageError(f"{root}: a home's path cannot have a question mark")
        return cls(root)

    def create(self) -> Home:
        """Make the directories that the tools expect to find; a new home says its layout.

        Raises:
            UsageError: they cannot be made.
        """
        try:
            if not self.has_state():
                self.root.mkdir(parents=True, exist_ok=True)
                self.mark(LAYOUT)
            for path in self._rooms():
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"home {self.root} cannot be used: {error.strerror}") from error
        return self

    def has_state(self) -> bool:
        """Whether a run has left anything here."""
        return any(path.exists() for path in (self.layout_file, *self._rooms()))

    def mark(self, layout: int) -> None:
        """Write down which layout this home has, and who says so."""
        new = self.layout_file.with_name(f".{self.layout_file.name}.{os.getpid()}")
        new.write_text(json.dumps({"layout": layout, "hymirec": __version__}) + "\n")
        new.replace(self.layout_file)

    @property
    def layout_file(self) -> Path:
        """Tells the layout (`hymirec.upgrades`); homes of before 0.2.0 have none."""
        return self.root / "home.json"

    def _rooms(self) -> tuple[Path, ...]:
        return (
            self.data,
            self.runs,
            self.reports,
            self.feast,
            self.events,
            self.catalogue,
            self.mlflow,
            self.prefect,
        )

    @property
    def data(self) -> Path:
        """Canonical tables, one directory per data digest."""
        return self.root / "data"

    @property
    def runs(self) -> Path:
        """Working directories of pipeline runs: weights, embeddings, codes, checkpoints."""
        return self.root / "runs"

    @property
    def reports(self) -> Path:
        """Validation reports (Data Docs), one directory per data digest."""
        return self.root / "reports"

    @property
    def feast(self) -> Path:
        """Feast's registry, online store and offline files."""
        return self.root / "feast"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.root / "events"

    @property
    def catalogue(self) -> Path:
        """Items published since training, one directory per codebook (`hymirec.additions`)."""
        return self.root / "catalogue"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.root / "mlflow"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking and registry URI: what `HYMIREC_MLFLOW` says, or a file of the home.

        Raises:
            UsageError: it says what MLflow does not know. Its own message would tell a password.
        """
        address = os.environ.get(ENV_MLFLOW)
        if address and not re.match(rf"({'|'.join(MLFLOW_STORES)})(\+\w+)?(://|$)", address):
            raise UsageError(f"{ENV_MLFLOW} is no address of {', '.join(MLFLOW_STORES)}")
        return address or f"sqlite:///{self._mlflow_file}"

    @property
    def artifact_uri(self) -> str:
        """Where MLflow keeps artifacts: what `HYMIREC_ARTIFACTS` says, or a folder of the home."""
        return os.environ.get(ENV_ARTIFACTS) or (self.mlflow / "artifacts").as_uri()

    @property
    def has_mlflow(self) -> bool:
        """Whether there is a store to ask; a client that asks for a file would make one."""
        return bool(os.environ.get(ENV_MLFLOW)) or self._mlflow_file.exists()

    @property
    def _mlflow_file(self) -> Path:
        return self.mlflow / "mlflow.db"

    @property
    def prefect(self) -> Path:
        """Prefect's home: its database of flow runs."""
        return self.root / "prefect"
