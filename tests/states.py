"""States of purchases and rows by their short names."""

from __future__ import annotations

from musicapi_provider.prompt_table.row import RowState
from musicapi_provider.purchases import UnknownOutcome

STORED, SUBMITTED, FAILED, UNKNOWN, NOT_SUBMITTED, POSTPONED = RowState
#: What ``settle`` says of a row whose create shall be sent again.
RESUBMIT = str(UnknownOutcome.RESUBMIT)
