"""Adjustments that an app makes for the framework it lives in."""
