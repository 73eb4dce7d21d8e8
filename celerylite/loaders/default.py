"""The loader of the app that exists when the user made none: it reads `celeryconfig.py`."""

from __future__ import annotations

import os
import warnings
from typing import Any

from celerylite.exceptions import NotConfigured
from celerylite.loaders.base import BaseLoader
from celerylite.utils.collections import DictAttribute
from celerylite.utils.serialization import strtobool

__all__ = ("DEFAULT_CONFIG_MODULE", "Loader")

DEFAULT_CONFIG_MODULE = "celeryconfig"

#: Warn if there is no configuration module: the variable C_WNOCONF.
C_WNOCONF = strtobool(os.environ.get("C_WNOCONF", False))


class Loader(BaseLoader):
    """A loader that reads the module in CELERY_CONFIG_MODULE, else `celeryconfig`."""

    def setup_settings(self, settingsdict: Any) -> DictAttribute:
        """Give the module as a mapping."""
        return DictAttribute(settingsdict)

    def read_configuration(self, fail_silently: bool = True) -> DictAttribute:  # type: ignore[override]
        """Import the module and give it as a mapping, an empty one if there is none.

        Raises ImportError for a missing module unless `fail_silently`, and NotAPackage for a wrong name.
        """
        configname = os.environ.get("CELERY_CONFIG_MODULE", DEFAULT_CONFIG_MODULE)
        try:
            module = self._import_config_module(configname)
        except ImportError:
            if not fail_silently:
                raise
            if C_WNOCONF and not os.environ.get("FORKED_BY_MULTIPROCESSING"):
                missing = (
                    f"No {configname} module found! Please make sure it exists and is available to Python."
                )
                warnings.warn(NotConfigured(missing), stacklevel=2)
            return self.setup_settings({})
        self.configured = True
        return self.setup_settings(module)
