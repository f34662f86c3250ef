"""FeatureStore by its place: a project's folder, or a feature server's URL."""

from typing import Any

from .errors import SettingsError
from .extras import TRAINING, lacking, needed


class FeatureStore:
    """Training sets: `get_historical_features(spine, features)`.

        FeatureStore()                                  the project of FEATURES_PROJECT_DIR, or of the current folder
        FeatureStore("path/to/project")                 one in another folder: `training.store.FeatureStore`
        FeatureStore("https://features.internal", key=…)    one that a feature server has: `client.store.RemoteStore`

    Both give the same rows, and take the same arguments.
    """

    def __new__(cls, project_dir: Any = None, *, key: str | None = None, **options: Any) -> Any:
        if isinstance(project_dir, str) and project_dir.startswith(("http://", "https://")):
            try:
                from .client.store import RemoteStore
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] != "pyarrow":
                    raise
                raise lacking(error, "FeatureStore", TRAINING) from None
            return RemoteStore(project_dir, key=key, **options)
        if key is not None:
            raise SettingsError(
                "a key of access is for feature servers", where="key", expected="a URL that begins with http",
                got="a project's folder", remedy="leave it out",
            )  # fmt: skip
        with needed("FeatureStore"):
            from .training.store import FeatureStore as ProjectStore
        return ProjectStore(project_dir, **options)
