"""Checks of the exercises on language models.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

from plm_tutorial.exercises import Exercises

exercises = Exercises()
check = exercises.check
