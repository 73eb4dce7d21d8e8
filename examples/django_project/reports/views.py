"""Order a report, read it, and ask how far it is."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from celerylite.result import AsyncResult
from reports.models import Report
from reports.tasks import announce, build_report


@require_GET
def index(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"django": "ready"})


@csrf_exempt
@require_POST
def order(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        report = Report.objects.create(title=request.POST["title"])
        announce.delay_on_commit(report.pk)  # type: ignore[attr-defined]  # tasks have it under Django
    result = build_report.delay(report.pk)
    return JsonResponse({"report": report.pk, "task": result.id}, status=202)


@require_GET
def show(request: HttpRequest, pk: int) -> JsonResponse:
    report = get_object_or_404(Report, pk=pk)
    return JsonResponse({"title": report.title, "text": report.text, "announced": report.announced})


@require_GET
def task_state(request: HttpRequest, task_id: str) -> JsonResponse:
    result: AsyncResult[object] = AsyncResult(task_id)
    return JsonResponse({"state": result.state, "result": result.result if result.successful() else None})
