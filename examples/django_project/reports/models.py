"""The reports that were ordered."""

from __future__ import annotations

from django.db import models


class Report(models.Model):  # type: ignore[misc]  # Django comes without types
    title = models.CharField(max_length=200)
    text = models.TextField(default="")
    announced = models.BooleanField(default=False)
