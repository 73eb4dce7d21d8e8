"""Tasks of this app: `autodiscover_tasks()` finds them here."""

from __future__ import annotations

from celerylite import Task, shared_task
from reports.models import Report


@shared_task(bind=True)
def build_report(self: Task, pk: int) -> dict[str, int]:
    report = Report.objects.get(pk=pk)
    lines = []
    for number in range(1, 6):
        lines.append(f"{report.title}, line {number}")
        self.update_state(state="PROGRESS", meta={"lines": number})
    Report.objects.filter(pk=pk).update(text="\n".join(lines))
    return {"report": pk, "lines": len(lines)}


@shared_task
def announce(pk: int) -> None:
    Report.objects.filter(pk=pk).update(announced=True)
