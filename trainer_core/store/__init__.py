"""Everything that was computed, under the key of what it was computed from: never stale, never half written."""

from trainer_core.store.entries import EntryStore, Kind, ShardInfo
from trainer_core.store.gc import GcReport, collect
from trainer_core.store.index import Index
from trainer_core.store.keys import canonical_json, digest, sha256_file
from trainer_core.store.objects import FileRecord, ObjectStore, Published
from trainer_core.store.refs import Refs
from trainer_core.store.store import Store
from trainer_core.store.verify import Problem, verify_store
from trainer_core.store.writer import EntryWriter

__all__ = [
    "EntryStore",
    "EntryWriter",
    "FileRecord",
    "GcReport",
    "Index",
    "Kind",
    "ObjectStore",
    "Problem",
    "Published",
    "Refs",
    "ShardInfo",
    "Store",
    "canonical_json",
    "collect",
    "digest",
    "sha256_file",
    "verify_store",
]
