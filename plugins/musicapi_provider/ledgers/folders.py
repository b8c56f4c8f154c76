"""
All purchases of a folder, as the API server and the command line reach them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from musicapi_provider.files import contents_of, list_names
from musicapi_provider.ledgers.choice import claims_are_required
from musicapi_provider.purchases import KEY, PURCHASES, Asker, FolderStore, Ledger
from musicapi_provider.purchases.folder import guarded, is_twin, parsed
from musicapi_provider.purchases.ledger import purchases_from
from musicapi_provider.purchases.settling import Entry, Record, changed_meanwhile, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import ObjectStoragePath

    from musicapi_provider.purchases import Purchase


def person(where: str) -> Asker:
    """
    Return who decides for a task.

    :param where: Command or page. Each of its calls is somebody else, for claims.
    """
    return Asker(run=where, slot=uuid4().hex[:8])


class FolderRecords:
    """
    The purchases in ``purchases/`` of a folder, a file each.

    :param folder: ``records`` of a task, or the destination of a table.
    :param asker: Who changes them, for those that meet the claim.
    """

    def __init__(self, folder: ObjectStoragePath, asker: Asker) -> None:
        self._folder = folder
        self._asker = asker
        #: Files that are no records, with the reasons.
        self.unread: dict[str, str] = {}

    @property
    def place(self) -> str:
        """What people call it."""
        return f"folder {self._folder}"

    def entries(self) -> list[Entry]:
        """
        Return all purchases; :attr:`unread` says what could not be read.

        :raises MusicAPINotSentError: the storage does not answer.
        """
        purchases = self._folder / PURCHASES

        def read() -> dict[str, bytes]:
            names = [name for name in list_names(purchases) if name.endswith(".json")]
            return contents_of(purchases, names)

        contents = guarded(f"storage of the records ({purchases})", read)
        self.unread = {}
        records = (record for name in sorted(contents) for record in self._records(name, contents[name]))
        return in_order(Entry(record, (record.place,)) for record in records)

    def _records(self, name: str, content: bytes) -> Iterator[Record]:
        known = parsed(content)
        try:
            purchases = purchases_from(known.get(KEY) if known else content.decode(errors="replace"))
        except TypeError as error:
            self.unread[name] = str(error)
            return
        for fingerprint, purchase in purchases.items():
            prompt_id = "" if is_twin(name, fingerprint) else name.rpartition("-")[0]
            yield Record(name, fingerprint, purchase, prompt_id)

    def write(self, entry: Entry, purchase: Purchase) -> None:
        """
        Write what a purchase has become, under the claim on its order.

        :raises MusicAPIError: somebody holds the claim, or has written meanwhile.
        """
        store = FolderStore.of_file(
            self._folder,
            entry.record.place,
            entry.record.fingerprint,
            self._asker,
            require_claims=claims_are_required(),
        )
        with store.claim():
            ledger = Ledger(store)
            if ledger.get(entry.record.fingerprint) != entry.purchase:
                raise changed_meanwhile(entry)
            ledger.put(entry.record.fingerprint, purchase)
