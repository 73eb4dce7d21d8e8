"""The addresses of the project."""

from __future__ import annotations

from django.urls import path
from reports import views

urlpatterns = [
    path("", views.index),
    path("reports/", views.order),
    path("reports/<int:pk>/", views.show),
    path("tasks/<task_id>/", views.task_state),
]
