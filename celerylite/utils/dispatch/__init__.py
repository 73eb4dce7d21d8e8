"""Signals: functions that are called when something happens."""

from __future__ import annotations

from .signal import Signal

__all__ = ("Signal",)
