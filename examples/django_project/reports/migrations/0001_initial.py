"""The first table."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):  # type: ignore[misc]  # Django comes without types
    initial = True
    dependencies: list[tuple[str, str]] = []  # noqa: RUF012  # as Django writes it
    operations = [  # noqa: RUF012  # as Django writes them
        migrations.CreateModel(
            name="Report",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("title", models.CharField(max_length=200)),
                ("text", models.TextField(default="")),
                ("announced", models.BooleanField(default=False)),
            ],
        ),
    ]
