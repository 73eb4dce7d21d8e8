"""Canvas: the signatures that describe calls, and the workflows they are composed into."""

from __future__ import annotations

from celerylite._canvas.chain import _chain, chain
from celerylite._canvas.chord import _chord, _clear_chord_option, _strip_chord_header_links
from celerylite._canvas.folding import _fold_chain, _merge_chain_step
from celerylite._canvas.group import _maybe_group, group
from celerylite._canvas.maps import _basemap, chunks, task_name_from, xmap, xstarmap
from celerylite._canvas.signature import (
    Signature,
    maybe_signature,
    maybe_subtask,
    maybe_unroll_group,
    signature,
    subtask,
)
from celerylite._canvas.stamping import StampingVisitor
from celerylite._canvas.stamping import merge_dictionaries as _merge_dictionaries

__all__ = (
    "Signature",
    "chain",
    "xmap",
    "xstarmap",
    "chunks",
    "group",
    "chord",
    "signature",
    "maybe_signature",
    # Celery has these without listing them; code imports them all the same.
    "StampingVisitor",
    "subtask",
    "maybe_subtask",
    "maybe_unroll_group",
    "task_name_from",
    "_basemap",
    "_chain",
    "_chord",
    "_clear_chord_option",
    "_fold_chain",
    "_maybe_group",
    "_merge_chain_step",
    "_merge_dictionaries",
    "_strip_chord_header_links",
)

#: As Celery: ``chord`` is the class of chords, with no folding of its own.
chord = _chord
