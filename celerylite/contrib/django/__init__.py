"""Extras for Django projects."""
